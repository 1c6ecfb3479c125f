//! The overlap of an access with a register window.

use std::ops::Range;

/// The part of an access of `len` bytes at `offset` that falls on `window`: its range in the access's buffer, and its
/// offset in the window. `None` if they do not overlap.
#[must_use]
pub fn overlap(offset: u64, len: usize, window: &Range<u64>) -> Option<(Range<usize>, u64)> {
    let from = offset.max(window.start);
    let end = offset.saturating_add(u64::try_from(len).ok()?).min(window.end);
    let len = usize::try_from(end.checked_sub(from)?).ok().filter(|len| *len > 0)?;
    let start = usize::try_from(from.checked_sub(offset)?).ok()?;
    Some((start..start.checked_add(len)?, from.checked_sub(window.start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_falls_on_a_window_before_inside_and_after_it() {
        let window = 0x10..0x14;
        assert_eq!(overlap(0xe, 4, &window), Some((2..4, 0)));
        assert_eq!(overlap(0x11, 2, &window), Some((0..2, 1)));
        assert_eq!(overlap(0x12, 8, &window), Some((0..2, 2)));
        assert_eq!(overlap(0, 0x20, &window), Some((0x10..0x14, 0)));
        for (offset, len) in [(0xc, 4), (0x14, 4), (0x11, 0), (u64::MAX, 8), (0, 0)] {
            assert_eq!(overlap(offset, len, &window), None, "{offset:#x} {len}");
        }
    }
}
