//! A driver's side of one split queue (virtio 1.2 §2.7), in guest memory that the test gives it.

use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress};

use super::{Machine, at};

/// A buffer: guest-physical address and length in bytes.
pub(super) type Buffer = (u64, u32);

/// A queue as its driver has it.
pub(super) struct QueueDriver {
    index: u16,
    base: u64,
    entries: u16,
    free: Vec<u16>,
    /// The descriptors of each chain in flight, by head.
    chains: Vec<Vec<u16>>,
    available: u16,
    used: u16,
}

impl QueueDriver {
    /// Bytes that a queue of 64 entries takes from its base on.
    pub(super) const BYTES: u64 = 0x1000;

    pub(super) fn new(index: u16, base: u64, entries: u16) -> Self {
        assert!(entries <= 64);
        let chains = vec![Vec::new(); entries.into()];
        Self { index, base, entries, free: (0..entries).rev().collect(), chains, available: 0, used: 0 }
    }

    fn available_ring(&self) -> u64 {
        self.base + 0x400
    }

    fn used_ring(&self) -> u64 {
        self.base + 0x800
    }

    /// Empties the rings and enables the queue, with the vector after its index.
    pub(super) fn enable(&mut self, machine: &Machine) {
        *self = Self::new(self.index, self.base, self.entries);
        machine.memory.write_slice(&[0; Self::BYTES as usize], GuestAddress(self.base)).unwrap();
        machine.write16(at::QUEUE_SELECT, self.index);
        machine.write16(at::QUEUE_SIZE, self.entries);
        machine.write16(at::QUEUE_MSIX_VECTOR, self.index + 1);
        machine.write(at::QUEUE_DESC, &self.base.to_le_bytes());
        machine.write(at::QUEUE_DRIVER, &self.available_ring().to_le_bytes());
        machine.write(at::QUEUE_DEVICE, &self.used_ring().to_le_bytes());
        machine.write16(at::QUEUE_ENABLE, 1);
    }

    /// Whether a chain of this many buffers fits.
    pub(super) fn has_room(&self, buffers: usize) -> bool {
        self.free.len() >= buffers
    }

    /// Makes a chain available, and returns its head.
    pub(super) fn offer(&mut self, machine: &Machine, readable: &[Buffer], writable: &[Buffer]) -> u16 {
        let readable = readable.iter().map(|buffer| (*buffer, 0));
        let writable = writable.iter().map(|buffer| (*buffer, VRING_DESC_F_WRITE));
        let buffers: Vec<_> = readable.chain(writable).collect();
        let indices: Vec<_> = buffers.iter().map(|_| self.free.pop().unwrap()).collect();
        for (n, ((address, len), flags)) in buffers.iter().enumerate() {
            let next = indices.get(n + 1);
            let flags = flags | next.map_or(0, |_| VRING_DESC_F_NEXT);
            let next = next.copied().unwrap_or(0xffff);
            machine.describe_at(self.base, indices[n].into(), *address, *len, flags as u16, next);
        }
        let head = indices[0];
        self.chains[usize::from(head)] = indices;
        self.make_available(machine, head);
        head
    }

    /// Puts a head into the available ring. A hostile driver does so again while the chain is in flight.
    pub(super) fn make_available(&mut self, machine: &Machine, head: u16) {
        let entry = self.available_ring() + 4 + 2 * u64::from(self.available % self.entries);
        machine.memory.write_obj(head, GuestAddress(entry)).unwrap();
        self.available = self.available.wrapping_add(1);
        machine.memory.write_obj(self.available, GuestAddress(self.available_ring() + 2)).unwrap();
    }

    /// Rings the doorbell.
    pub(super) fn kick(&self, machine: &Machine) {
        machine.write16(at::NOTIFY + 4 * u64::from(self.index), self.index);
    }

    /// Takes the chains that were used since the last call: head and length.
    pub(super) fn take_used(&mut self, machine: &Machine) -> Vec<(u16, u32)> {
        let mut taken = Vec::new();
        let count: u16 = machine.memory.read_obj(GuestAddress(self.used_ring() + 2)).unwrap();
        while self.used != count {
            let entry = self.used_ring() + 4 + 8 * u64::from(self.used % self.entries);
            let word = |at| machine.memory.read_obj::<u32>(GuestAddress(at)).unwrap();
            let (head, len) = (word(entry) as u16, word(entry + 4));
            let chain = std::mem::take(&mut self.chains[usize::from(head)]);
            assert!(!chain.is_empty(), "a chain that was not in flight is used");
            self.free.extend(chain);
            self.used = self.used.wrapping_add(1);
            taken.push((head, len));
        }
        taken
    }
}

impl Machine {
    /// Initialises the device from reset to DRIVER_OK with these queues.
    pub(super) fn drive_queues(&self, features: u64, queues: &mut [QueueDriver]) {
        use super::super::registers::{DRIVER_OK, FEATURES_OK};
        self.write(at::DEVICE_STATUS, &[1]);
        self.write(at::DEVICE_STATUS, &[3]);
        self.take(features);
        self.write(at::DEVICE_STATUS, &[3 | FEATURES_OK]);
        assert_eq!(self.status(), 3 | FEATURES_OK);
        self.write16(at::CONFIG_MSIX_VECTOR, 0);
        queues.iter_mut().for_each(|queue| queue.enable(self));
        self.write(at::DEVICE_STATUS, &[3 | FEATURES_OK | DRIVER_OK]);
        self.settle();
    }
}
