//! A driver of the network device: rings for each queue, a buffer for each descriptor.

use std::collections::BTreeMap;

use super::*;

/// Entries of each queue.
pub(super) const SIZE: u16 = 64;
/// Bytes of a descriptor's buffer.
pub(super) const BUFFER: u64 = 4096;
/// The first queue's rings and buffers.
const RINGS: u64 = 0x1000;
const POOL: u64 = 0x4_0000;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const NEXT: u16 = VRING_DESC_F_NEXT as u16;

/// Whether the device writes a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Readable,
    Writable,
}

/// One queue as its driver sees it.
struct Ring {
    free: Vec<u16>,
    /// The descriptors of each chain that the device has.
    chains: BTreeMap<u16, Vec<(u16, u64, u32)>>,
    available: u16,
    used: u16,
}

impl Ring {
    fn new() -> Self {
        Self { free: (0..SIZE).rev().collect(), chains: BTreeMap::new(), available: 0, used: 0 }
    }
}

/// A chain that the device has used: its length as the device says, and its buffers.
#[derive(Debug)]
pub(super) struct Used {
    pub(super) written: u32,
    pub(super) buffers: Vec<(u64, u32)>,
}

/// A machine with a network device and its driver.
pub(super) struct NetDriver {
    pub(super) machine: Machine,
    pub(super) link: Arc<Sockets>,
    pub(super) peers: Vec<UnixDatagram>,
    rings: Vec<Ring>,
}

impl NetDriver {
    /// A device with this many pairs of queues. It offers what the driver accepts, and more.
    pub(super) fn new(pairs: usize, features: u64) -> Self {
        let (link, peers) = Sockets::new(pairs);
        let mac = "02:00:00:00:00:01".parse::<MacAddress>().unwrap();
        let machine = Machine::of(Net::model(link.clone(), mac, Datapath::Vmm, None).unwrap());
        machine.enable_msix();
        let mut driver = Self { machine, link, peers, rings: Vec::new() };
        driver.drive(features);
        driver
    }

    /// Initialises the device from reset, with all its queues.
    pub(super) fn drive(&mut self, features: u64) {
        let machine = &self.machine;
        machine.reset();
        machine.write(at::DEVICE_STATUS, &[3]);
        machine.take(COMMON_FEATURES | features);
        machine.write(at::DEVICE_STATUS, &[3 | FEATURES_OK]);
        assert_eq!(machine.status(), 3 | FEATURES_OK);
        let queues = machine.read::<2>(at::NUM_QUEUES) as u16;
        self.rings = (0..queues).map(|_| Ring::new()).collect();
        machine
            .memory
            .write_slice(&vec![0; RINGS as usize * usize::from(queues)], GuestAddress(RINGS))
            .unwrap();
        for index in 0..queues {
            machine.write16(at::QUEUE_SELECT, index);
            machine.write16(at::QUEUE_SIZE, SIZE);
            machine.write16(at::QUEUE_MSIX_VECTOR, 1);
            let base = rings(index);
            for (register, area) in
                [(at::QUEUE_DESC, base), (at::QUEUE_DRIVER, base + 0x400), (at::QUEUE_DEVICE, base + 0x600)]
            {
                machine.write(register, &(area as u32).to_le_bytes());
                machine.write(register + 4, &[0; 4]);
            }
            machine.write16(at::QUEUE_ENABLE, 1);
        }
        machine.write(at::DEVICE_STATUS, &[3 | FEATURES_OK | DRIVER_OK]);
        machine.settle();
    }

    /// How many chains can be made of free descriptors.
    pub(super) fn free(&self, queue: u16) -> usize {
        self.rings[usize::from(queue)].free.len()
    }

    /// Makes a chain of buffers of these lengths available. The descriptors' own buffers are used.
    pub(super) fn offer(&mut self, queue: u16, direction: Direction, lengths: &[u32]) -> Vec<(u64, u32)> {
        let ring = &mut self.rings[usize::from(queue)];
        let indices = ring.free.split_off(ring.free.len() - lengths.len());
        let buffers: Vec<_> =
            indices.iter().zip(lengths).map(|(index, len)| (buffer(queue, *index), *len)).collect();
        let directions = vec![direction; lengths.len()];
        self.offer_at(queue, &indices, &buffers, &directions);
        buffers
    }

    /// Makes a chain of buffers anywhere available.
    pub(super) fn offer_any(&mut self, queue: u16, buffers: &[(u64, u32)], directions: &[Direction]) {
        let ring = &mut self.rings[usize::from(queue)];
        let indices = ring.free.split_off(ring.free.len() - buffers.len());
        self.offer_at(queue, &indices, buffers, directions);
    }

    fn offer_at(&mut self, queue: u16, indices: &[u16], buffers: &[(u64, u32)], directions: &[Direction]) {
        let base = rings(queue);
        let ring = &mut self.rings[usize::from(queue)];
        for (at, ((index, (address, len)), direction)) in
            indices.iter().zip(buffers).zip(directions).enumerate()
        {
            let next = indices.get(at + 1);
            let write = if *direction == Direction::Writable { WRITE } else { 0 };
            let flags = write | if next.is_some() { NEXT } else { 0 };
            let next = next.copied().unwrap_or(0);
            self.machine.describe_at(base, (*index).into(), *address, *len, flags, next);
        }
        let chain = indices.iter().zip(buffers).map(|(index, (address, len))| (*index, *address, *len));
        ring.chains.insert(indices[0], chain.collect());
        let entry = base + 0x400 + 4 + 2 * u64::from(ring.available % SIZE);
        self.machine.memory.write_obj(indices[0], GuestAddress(entry)).unwrap();
        ring.available = ring.available.wrapping_add(1);
        self.machine.memory.write_obj(ring.available, GuestAddress(base + 0x402)).unwrap();
    }

    /// Rings a queue's doorbell and lets the lanes work.
    pub(super) fn kick(&self, queue: u16) {
        self.machine.write16(at::NOTIFY + 4 * u64::from(queue), queue);
        self.machine.settle();
    }

    /// The next chain that the device has used.
    pub(super) fn reap(&mut self, queue: u16) -> Option<Used> {
        let (base, memory) = (rings(queue), &self.machine.memory);
        let ring = &mut self.rings[usize::from(queue)];
        let index: u16 = memory.read_obj(GuestAddress(base + 0x602)).unwrap();
        if index == ring.used {
            return None;
        }
        let entry = base + 0x604 + 8 * u64::from(ring.used % SIZE);
        let word = |at| memory.read_obj::<u32>(GuestAddress(at)).unwrap();
        let (head, written) = (word(entry) as u16, word(entry + 4));
        ring.used = ring.used.wrapping_add(1);
        let chain = ring.chains.remove(&head).expect("the device uses only what it was given");
        ring.free.extend(chain.iter().map(|(index, ..)| *index));
        Some(Used { written, buffers: chain.into_iter().map(|(_, address, len)| (address, len)).collect() })
    }

    /// The next packet that was received into queue 0, as bytes with its header.
    pub(super) fn receive(&mut self) -> Option<Vec<u8>> {
        let first = self.reap(0)?;
        let mut bytes = self.contents(&first);
        let buffers = u16::from_le_bytes([bytes[10], bytes[11]]);
        for _ in 1..buffers {
            let next = self.reap(0).expect("a packet's buffers are used together");
            bytes.extend(self.contents(&next));
        }
        Some(bytes)
    }

    /// The bytes that the device has written to a chain.
    pub(super) fn contents(&self, used: &Used) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (address, len) in &used.buffers {
            let mut part = vec![0; *len as usize];
            self.machine.memory.read_slice(&mut part, GuestAddress(*address)).unwrap();
            bytes.extend(part);
        }
        bytes.truncate(used.written as usize);
        bytes
    }

    /// Offers a packet on queue 1 as a chain of buffers of these lengths, the last of which takes the rest.
    pub(super) fn send(&mut self, packet: &[u8], lengths: &[u32]) {
        let mut rest = packet;
        let mut cut = Vec::new();
        for len in lengths {
            let (part, after) = rest.split_at((*len as usize).min(rest.len()));
            cut.push(part);
            rest = after;
        }
        if !rest.is_empty() {
            cut.push(rest);
        }
        cut.retain(|part| !part.is_empty());
        let lengths: Vec<_> = cut.iter().map(|part| part.len() as u32).collect();
        let buffers = self.offer(1, Direction::Readable, &lengths);
        for ((address, _), part) in buffers.iter().zip(cut) {
            self.machine.memory.write_slice(part, GuestAddress(*address)).unwrap();
        }
    }

    /// The next packet that the device has sent to the first peer.
    pub(super) fn sent(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 1 << 17];
        let len = self.peers[0].recv(&mut bytes).ok()?;
        bytes.truncate(len);
        Some(bytes)
    }

    /// A counter of the first pair.
    pub(super) fn counter(&self, name: &str) -> u64 {
        self.machine.transport.report()["pairs"][0][name].as_u64().unwrap()
    }

    /// Chains of a queue that broke a rule.
    pub(super) fn invalid(&self, queue: usize) -> u64 {
        self.machine.transport.report()["queues"][queue]["invalid"].as_u64().unwrap()
    }
}

fn rings(queue: u16) -> u64 {
    RINGS + 0x1000 * u64::from(queue)
}

/// The buffer of a descriptor of the first two queues.
pub(super) fn buffer(queue: u16, index: u16) -> u64 {
    POOL + BUFFER * (u64::from(queue) * u64::from(SIZE) + u64::from(index))
}
