//! Peer-to-peer DMA: the BARs of a device in the IOMMU address space of all devices, at their guest addresses.
//!
//! Owns the mappings of one BAR. Invariant: the IOMMU maps a BAR's pages exactly while the guest decodes them there. The
//! pages of the MSI-X table and PBA are left out, because the VMM emulates them. A mapping that the host refuses is logged
//! once for each BAR: other devices' DMA to it fails, and everything else works. While the host refuses to remove a
//! mapping, no other is added, so a BAR never has more than its parts.
//!
//! The bus serialises changes of an address, and [`mapping`](super::mapping) holds its lock meanwhile.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::memory::FileMapping;

/// Whether other devices reach a device's BARs by DMA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerToPeer {
    /// They do, where the host can.
    #[default]
    On,
    /// They do not.
    Off,
}

/// The IOMMU address space of the devices, which is indexed by guest-physical address.
pub trait PeerSpace: fmt::Debug + Send + Sync {
    /// Maps a part of a BAR, in whole pages.
    ///
    /// # Errors
    /// The host's error, for example because the IOMMU has too few address bits.
    fn map_peer(&self, guest: u64, memory: &FileMapping, part: Range<usize>) -> io::Result<()>;

    /// Removes a mapping.
    ///
    /// # Errors
    /// The host's error.
    fn unmap_peer(&self, guest: u64, size: u64) -> io::Result<()>;
}

/// One BAR in the space.
#[derive(Debug)]
pub(super) struct PeerBar {
    space: Arc<dyn PeerSpace>,
    parts: Vec<PeerPart>,
    /// Guest address and size of each mapping.
    mapped: Vec<(u64, u64)>,
    refusal_logged: bool,
}

#[derive(Debug)]
struct PeerPart {
    /// Offset in the BAR.
    offset: u64,
    memory: Arc<FileMapping>,
    /// Bytes of the memory.
    bytes: Range<usize>,
}

impl PeerBar {
    /// A BAR without parts.
    pub(super) fn new(space: Arc<dyn PeerSpace>) -> Self {
        Self { space, parts: Vec::new(), mapped: Vec::new(), refusal_logged: false }
    }

    /// Adds `bytes` of `memory` at this offset of the BAR.
    pub(super) fn add(&mut self, offset: u64, memory: Arc<FileMapping>, bytes: Range<usize>) {
        self.parts.push(PeerPart { offset, memory, bytes });
    }

    /// Moves the BAR, or removes it. The old address is free before the new one is taken.
    pub(super) fn set_address(&mut self, at: Option<u64>) {
        self.unmap();
        let Some(at) = at.filter(|_| self.mapped.is_empty()) else {
            return;
        };
        for part in &self.parts {
            let guest = at.saturating_add(part.offset);
            match self.space.map_peer(guest, &part.memory, part.bytes.clone()) {
                Ok(()) => self.mapped.push((guest, part.bytes.len() as u64)),
                Err(error) => {
                    if !std::mem::replace(&mut self.refusal_logged, true) {
                        tracing::warn!(
                            "other devices cannot reach {:#x} bytes of a device's BAR at {guest:#x} by DMA: {error}",
                            part.bytes.len()
                        );
                    }
                }
            }
        }
    }

    /// Removes all mappings. One that the host keeps is tried again at the next change.
    fn unmap(&mut self) {
        let Self { space, mapped, refusal_logged, .. } = self;
        mapped.retain(|(guest, size)| match space.unmap_peer(*guest, *size) {
            Ok(()) => false,
            Err(error) => {
                if !std::mem::replace(refusal_logged, true) {
                    tracing::warn!("cannot unmap a device's BAR at {guest:#x} from the IOMMU: {error}");
                }
                true
            }
        });
    }
}

impl Drop for PeerBar {
    fn drop(&mut self) {
        self.unmap();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::MemfdFlags;

    use super::*;

    /// Records the calls, and refuses overlaps as the IOMMU does.
    #[derive(Debug, Default)]
    struct Space {
        calls: Mutex<Vec<String>>,
        mapped: Mutex<Vec<Range<u64>>>,
        refuses: AtomicBool,
    }

    impl Space {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.calls.lock().unwrap())
        }

        fn refuse(&self, refuses: bool) {
            self.refuses.store(refuses, Ordering::Relaxed);
        }

        fn answer(&self, call: String) -> io::Result<()> {
            self.calls.lock().unwrap().push(call);
            if self.refuses.load(Ordering::Relaxed) {
                Err(io::ErrorKind::InvalidInput.into())
            } else {
                Ok(())
            }
        }
    }

    impl PeerSpace for Space {
        fn map_peer(&self, guest: u64, memory: &FileMapping, part: Range<usize>) -> io::Result<()> {
            assert!(part.end <= memory.region().size());
            self.answer(format!("map {guest:#x} of {part:x?}"))?;
            let range = guest..guest + part.len() as u64;
            let mut mapped = self.mapped.lock().unwrap();
            assert!(mapped.iter().all(|other| other.end <= range.start || range.end <= other.start));
            mapped.push(range);
            Ok(())
        }

        fn unmap_peer(&self, guest: u64, size: u64) -> io::Result<()> {
            self.answer(format!("unmap {guest:#x} {size:#x}"))?;
            let mut mapped = self.mapped.lock().unwrap();
            let at = mapped.iter().position(|range| *range == (guest..guest + size)).expect("it is mapped");
            mapped.remove(at);
            Ok(())
        }
    }

    /// A BAR of four pages whose second page is emulated.
    fn bar(space: &Arc<Space>) -> PeerBar {
        let file = File::from(rustix::fs::memfd_create("bar", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(0x4000).unwrap();
        let memory = Arc::new(FileMapping::new(&file, 0, 0x4000).unwrap());
        let mut bar = PeerBar::new(Arc::clone(space) as Arc<dyn PeerSpace>);
        bar.add(0, Arc::clone(&memory), 0..0x1000);
        bar.add(0x2000, memory, 0x2000..0x4000);
        bar
    }

    #[test]
    fn the_iommu_follows_moves_and_decode_changes() {
        let space = Arc::new(Space::default());
        let mut bar = bar(&space);
        assert_eq!(space.take(), [""; 0], "nothing is mapped without an address");
        bar.set_address(Some(0xc000_0000));
        assert_eq!(space.take(), ["map 0xc0000000 of 0..1000", "map 0xc0002000 of 2000..4000"]);
        // By one page: the old range is free first.
        bar.set_address(Some(0xc000_1000));
        let moved = ["unmap 0xc0000000 0x1000", "unmap 0xc0002000 0x2000"].into_iter();
        let moved: Vec<_> =
            moved.chain(["map 0xc0001000 of 0..1000", "map 0xc0003000 of 2000..4000"]).collect();
        assert_eq!(space.take(), moved);
        bar.set_address(None);
        assert_eq!(space.take(), ["unmap 0xc0001000 0x1000", "unmap 0xc0003000 0x2000"]);
        bar.set_address(None);
        assert_eq!(space.take(), [""; 0]);
    }

    #[test]
    fn a_bar_that_ends_is_unmapped() {
        let space = Arc::new(Space::default());
        let mut bar = bar(&space);
        bar.set_address(Some(0xc000_0000));
        drop(bar);
        assert!(space.mapped.lock().unwrap().is_empty());
    }

    #[test]
    fn a_refused_mapping_is_tried_again_at_the_next_address() {
        let space = Arc::new(Space::default());
        let mut bar = bar(&space);
        space.refuse(true);
        bar.set_address(Some(0xc000_0000));
        space.refuse(false);
        space.take();
        bar.set_address(Some(0xd000_0000));
        assert_eq!(space.take(), ["map 0xd0000000 of 0..1000", "map 0xd0002000 of 2000..4000"]);
        // A mapping that the host keeps is removed at the next change.
        space.refuse(true);
        bar.set_address(None);
        space.refuse(false);
        space.take();
        bar.set_address(None);
        assert_eq!(space.take(), ["unmap 0xd0000000 0x1000", "unmap 0xd0002000 0x2000"]);
    }

    #[test]
    fn a_guest_that_moves_a_bar_makes_no_mapping_while_the_host_keeps_the_old_one() {
        let space = Arc::new(Space::default());
        let mut bar = bar(&space);
        bar.set_address(Some(0xc000_0000));
        space.refuse(true);
        for at in 0..1000 {
            bar.set_address(Some(0xd000_0000 + at * 0x10_0000));
        }
        assert_eq!(bar.mapped, [(0xc000_0000, 0x1000), (0xc000_2000, 0x2000)]);
        space.refuse(false);
        bar.set_address(Some(0xe000_0000));
        assert_eq!(bar.mapped, [(0xe000_0000, 0x1000), (0xe000_2000, 0x2000)]);
    }
}
