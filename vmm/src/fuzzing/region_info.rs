//! Replies to VFIO_DEVICE_GET_REGION_INFO that lie: sizes, flags, capability lists, and replies that change between two requests.
//!
//! Promise: the request ends, and the areas to map are whole, sorted, apart, and not empty.

use std::cell::Cell;

use crate::vfio::fuzzed_region_areas;
use crate::vfio::mmap_ranges::{PAGE, mappable};

/// The bytes are the replies, one behind the other: the first 16 bits of each say how many 8-byte words it has.
///
/// # Panics
/// A promise is broken.
pub fn region_info(bytes: &[u8]) {
    let left = Cell::new(bytes);
    let requests = Cell::new(0);
    let areas = fuzzed_region_areas(|words| {
        requests.set(requests.get() + 1);
        let (length, rest) = left.get().split_at_checked(2).unwrap_or_default();
        let length = length.first_chunk().map_or(0, |length| usize::from(u16::from_le_bytes(*length))) * 8;
        let (reply, rest) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        left.set(rest);
        for (word, bytes) in words.iter_mut().zip(reply.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Ok(())
    });
    assert!(requests.get() <= 8, "the host is asked again and again");
    let Ok((size, areas)) = areas else { return };
    let mut end = 0;
    for area in &areas {
        assert!(area.start < area.end && area.start >= end && area.start.is_multiple_of(PAGE), "{areas:x?}");
        assert!(area.end <= size.next_multiple_of(PAGE), "{areas:x?} in {size:#x}");
        end = area.end;
    }
    let trapped = [0x1000..0x1010, size / 2..size / 2 + 8];
    for part in mappable(&areas, &trapped) {
        assert!(areas.iter().any(|area| area.start <= part.start && part.end <= area.end), "{part:x?}");
        assert!(trapped.iter().all(|hole| hole.end <= part.start || part.end <= hole.start), "{part:x?}");
    }
}
