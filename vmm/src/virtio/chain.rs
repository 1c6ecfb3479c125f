//! A descriptor chain that the device has taken: its buffers as guest-physical ranges (virtio 1.2 §2.7.4, §2.7.5).
//!
//! Invariant: every descriptor was read once, when the chain was taken. A driver that changes its descriptors later
//! changes nothing. A chain has at most as many buffers as the queue has entries. Its buffers may lie outside of RAM,
//! which [`Buffers::slices`] finds.

use std::ops::Range;

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

/// The rule that a chain breaks. The buffers before the fault are part of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// It has no readable descriptor, or its only descriptor is an invalid indirect one.
    #[error("has no descriptor")]
    Empty,
    /// It loops, is longer than the queue, leaves the descriptor table, has 4 GiB, or has an invalid indirect
    /// descriptor.
    #[error("does not end")]
    Endless,
    /// A device-readable buffer follows a device-writable one (virtio 1.2 §2.7.4.2).
    #[error("has a readable buffer after a writable one")]
    Order,
}

/// A buffer ends behind the last buffer of its chain, or is not in RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a buffer is too short or not in RAM")]
pub struct OutOfBounds;

/// Buffers of one direction, in the order of the chain. Offsets count bytes from the start of the first buffer.
#[derive(Debug, Default)]
pub struct Buffers(Vec<(GuestAddress, u32)>);

impl Buffers {
    /// Their length in bytes, all together.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, len)| sum.saturating_add(u64::from(*len)))
    }

    /// Whether they have no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Guest-physical address and length in bytes of each buffer.
    pub fn iter(&self) -> impl Iterator<Item = (GuestAddress, u32)> {
        self.0.iter().copied()
    }

    /// The bytes of `range` as guest-physical ranges. The range may reach behind the last buffer.
    fn parts(&self, range: Range<u64>) -> impl Iterator<Item = (GuestAddress, usize)> {
        let mut start = 0u64;
        self.0.iter().filter_map(move |(address, len)| {
            let first = range.start.max(start);
            let skipped = first.saturating_sub(start);
            let end = start.saturating_add(u64::from(*len));
            let count = usize::try_from(range.end.min(end).saturating_sub(first)).ok()?;
            start = end;
            let address = address.0.checked_add(skipped)?;
            (count > 0).then_some((GuestAddress(address), count))
        })
    }

    /// The bytes of `range` in host memory, without a copy.
    ///
    /// # Errors
    /// An item is [`OutOfBounds`] for a part outside of RAM. A range that reaches behind the last buffer is cut off.
    pub fn slices<'m>(
        &self,
        memory: &'m GuestMemoryMmap,
        range: Range<u64>,
    ) -> impl Iterator<Item = Result<VolatileSlice<'m>, OutOfBounds>> {
        self.parts(range).flat_map(|(address, len)| {
            // The direction is the driver's word to itself: RAM is readable and writable for a device.
            let slices = memory.get_slices(address, len, Permissions::ReadWrite);
            let (slices, error) = match slices {
                Ok(slices) => (Some(slices), None),
                Err(_) => (None, Some(Err(OutOfBounds))),
            };
            slices.into_iter().flatten().map(|slice| slice.map_err(|_| OutOfBounds)).chain(error)
        })
    }

    /// Copies `data.len()` bytes from `offset` on out of the buffers.
    ///
    /// # Errors
    /// [`OutOfBounds`]. `data` is undefined then.
    pub fn read(&self, memory: &GuestMemoryMmap, offset: u64, data: &mut [u8]) -> Result<(), OutOfBounds> {
        let mut rest = data;
        for (address, count) in self.parts(offset..offset.saturating_add(rest.len() as u64)) {
            let (part, after) = rest.split_at_mut_checked(count).ok_or(OutOfBounds)?;
            memory.read_slice(part, address).map_err(|_| OutOfBounds)?;
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(OutOfBounds) }
    }

    /// Copies `data` into the buffers from `offset` on.
    ///
    /// # Errors
    /// [`OutOfBounds`]. Some bytes may be written then.
    pub fn write(&self, memory: &GuestMemoryMmap, offset: u64, data: &[u8]) -> Result<(), OutOfBounds> {
        let mut rest = data;
        for (address, count) in self.parts(offset..offset.saturating_add(rest.len() as u64)) {
            let (part, after) = rest.split_at_checked(count).ok_or(OutOfBounds)?;
            memory.write_slice(part, address).map_err(|_| OutOfBounds)?;
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(OutOfBounds) }
    }
}

/// A chain in flight. Give it back to its queue by [`LiveQueue::complete`](super::LiveQueue::complete) or
/// [`LiveQueue::put_back`](super::LiveQueue::put_back): the queue cannot be reset before.
#[derive(Debug)]
#[must_use = "a chain that is not given back blocks the reset of its queue"]
pub struct Chain {
    head: u16,
    generation: u64,
    readable: Buffers,
    writable: Buffers,
    fault: Option<ChainFault>,
}

impl Chain {
    /// Reads the descriptors of a chain, of a queue with `size` entries. `storage` is reused.
    pub(super) fn read(
        descriptors: DescriptorChain<&GuestMemoryMmap>,
        size: u16,
        generation: u64,
        storage: Storage,
    ) -> Self {
        let Storage(readable, writable) = storage;
        let head = descriptors.head_index();
        let mut chain = Self { head, generation, readable, writable, fault: Some(ChainFault::Empty) };
        let mut is_disordered = false;
        for descriptor in descriptors.take(size.into()) {
            let buffer = (descriptor.addr(), descriptor.len());
            if descriptor.is_write_only() {
                chain.writable.0.push(buffer);
            } else {
                is_disordered |= !chain.writable.0.is_empty();
                chain.readable.0.push(buffer);
            }
            chain.fault = descriptor.has_next().then_some(ChainFault::Endless);
        }
        chain.fault = chain.fault.or(is_disordered.then_some(ChainFault::Order));
        chain
    }

    /// Index of the first descriptor, which names the chain to the driver.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The time between two resets to which it belongs.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The buffers that the device reads.
    #[must_use]
    pub fn readable(&self) -> &Buffers {
        &self.readable
    }

    /// The buffers that the device writes.
    #[must_use]
    pub fn writable(&self) -> &Buffers {
        &self.writable
    }

    /// The rule that the chain breaks, if it breaks one.
    #[must_use]
    pub fn fault(&self) -> Option<ChainFault> {
        self.fault
    }

    /// The emptied vectors, for another chain.
    pub(super) fn into_storage(self) -> Storage {
        let (mut readable, mut writable) = (self.readable, self.writable);
        readable.0.clear();
        writable.0.clear();
        Storage(readable, writable)
    }
}

/// The vectors of a chain that was given back.
#[derive(Debug, Default)]
pub(super) struct Storage(Buffers, Buffers);
