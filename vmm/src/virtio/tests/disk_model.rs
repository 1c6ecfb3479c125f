//! Random requests to a disk's queues, against a model of its bytes.

use std::io;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::blk::engine::EngineKind;
use super::super::blk::operation::Operation;
use super::super::blk::{Disk, DiskImage, ImageAccess};
use super::disk::{
    ALL, DISCARD, FLUSH, GET_ID, IN, IOERR, OK, OUT, Scratch, Scripted, UNSUPP, WRITE_ZEROES, pattern,
};
use super::driver::{Buffer, QueueDriver};
use super::{Machine, at};

/// The disk has this many regions, and a batch has one request for each at most: requests in flight do not overlap.
const REGIONS: usize = 12;
const REGION_SECTORS: u64 = 16;
const REGION: usize = REGION_SECTORS as usize * 512;
const QUEUES: u16 = 3;

/// Guest memory of a region's request: header, status, data.
fn header(region: usize) -> u64 {
    0x1_0000 + region as u64 * 0x40
}
fn status(region: usize) -> u64 {
    header(region) + 0x30
}
fn data(region: usize) -> u64 {
    0x2_0000 + (region * REGION) as u64
}

#[derive(Clone, Debug)]
enum Action {
    Read { from: u64, sectors: u64 },
    Write { from: u64, sectors: u64, seed: u8 },
    Flush,
    GetId,
    Discard { from: u64, sectors: u64 },
    Zeroes { from: u64, sectors: u64, unmap: u32 },
    Unknown(u32),
    Beyond { kind: u32 },
    Odd { kind: u32, len: u32 },
}

#[derive(Clone, Debug)]
struct Ask {
    queue: u16,
    action: Action,
    /// Where data is cut into buffers, in bytes.
    cuts: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Batch {
    asks: Vec<Ask>,
    /// The number of turns after which the device is reset, if it is.
    reset_after: Option<usize>,
}

fn sectors() -> impl Strategy<Value = (u64, u64)> {
    (0..REGION_SECTORS).prop_flat_map(|from| (Just(from), 0..=REGION_SECTORS - from))
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => sectors().prop_map(|(from, sectors)| Action::Read { from, sectors }),
        6 => (sectors(), any::<u8>()).prop_map(|((from, sectors), seed)| Action::Write { from, sectors, seed }),
        1 => Just(Action::Flush),
        1 => Just(Action::GetId),
        1 => sectors().prop_map(|(from, sectors)| Action::Discard { from, sectors }),
        2 => (sectors(), 0u32..2).prop_map(|((from, sectors), unmap)| Action::Zeroes { from, sectors, unmap }),
        1 => prop_oneof![Just(2u32), Just(3), 14u32..].prop_map(Action::Unknown),
        1 => prop_oneof![Just(IN), Just(OUT)].prop_map(|kind| Action::Beyond { kind }),
        1 => (prop_oneof![Just(IN), Just(OUT)], 1u32..511).prop_map(|(kind, len)| Action::Odd { kind, len }),
    ]
}

fn batch() -> impl Strategy<Value = Batch> {
    let ask = (0..QUEUES, action(), prop::collection::vec(1u32..REGION as u32, 0..3));
    let ask = ask.prop_map(|(queue, action, cuts)| Ask { queue, action, cuts });
    let reset = prop_oneof![4 => Just(None), 1 => (0usize..6).prop_map(Some)];
    (prop::collection::vec(ask, 1..REGIONS), reset)
        .prop_map(|(asks, reset_after)| Batch { asks, reset_after })
}

/// Cuts `len` bytes from `address` on into buffers.
fn cut(address: u64, len: u32, cuts: &[u32]) -> Vec<Buffer> {
    let mut ends: Vec<u32> = cuts.iter().copied().filter(|end| *end < len).chain([len]).collect();
    ends.sort_unstable();
    ends.dedup();
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts
        .zip(&ends)
        .map(|(start, end)| (address + u64::from(start), end - start))
        .filter(|(_, len)| *len > 0)
        .collect()
}

struct Run {
    machine: Machine,
    queues: Vec<QueueDriver>,
    scratch: Scratch,
    model: Vec<u8>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let bytes = pattern(REGIONS as u64 * REGION_SECTORS);
        let scratch = Scratch::new(&format!("model-{seed:x}"), &bytes);
        let image = DiskImage::open(&scratch.0, ImageAccess::ReadWrite).unwrap();
        let engines = (0..QUEUES).map(|queue| {
            let mut random = seed.wrapping_add(queue.into()) | 1;
            let script = move |operation: &Operation| -> Option<io::Result<u64>> {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                match random >> 60 {
                    0 => Some(Err(io::Error::from_raw_os_error(libc::EINTR))),
                    // A short transfer: the rest is transferred again.
                    1 => Some(operation.perform().map(|bytes| bytes.div_ceil(2))),
                    _ => None,
                }
            };
            Scripted::engine(Box::new(script)).0
        });
        let model = Disk::with_engines(image, "model".into(), EngineKind::Threads, engines.collect());
        let machine = Machine::of(model);
        machine.enable_msix();
        let base = |queue| u64::from(queue) * QueueDriver::BYTES + 0x1000;
        let mut queues: Vec<_> = (0..QUEUES).map(|queue| QueueDriver::new(queue, base(queue), 64)).collect();
        machine.drive_queues(ALL, &mut queues);
        Self { machine, queues, scratch, model: bytes }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.machine.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.machine.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    /// Offers the request of a region. Returns the queue, the head, and what is expected: status and length.
    fn offer(&mut self, region: usize, ask: &Ask) -> (u16, u16, u8, u32) {
        let first = region as u64 * REGION_SECTORS;
        let end = REGIONS as u64 * REGION_SECTORS;
        let bytes = |sectors: u64| sectors as u32 * 512;
        let buffers = |len| cut(data(region), len, &ask.cuts);
        let segment = |run: &Self, from: u64, sectors: u64, flags: u32| {
            run.put(data(region), &(first + from).to_le_bytes());
            run.put(data(region) + 8, &(sectors as u32).to_le_bytes());
            run.put(data(region) + 12, &flags.to_le_bytes());
        };
        let (kind, sector, readable, writable, expected, len) = match ask.action {
            Action::Read { from, sectors } => {
                (IN, first + from, vec![], buffers(bytes(sectors)), OK, bytes(sectors) + 1)
            }
            Action::Write { from, sectors, seed } => {
                let written: Vec<u8> =
                    (0..bytes(sectors)).map(|n| (n as u8).wrapping_mul(seed | 1)).collect();
                self.put(data(region), &written);
                (OUT, first + from, buffers(bytes(sectors)), vec![], OK, 1)
            }
            Action::Flush => (FLUSH, 0, vec![], vec![], OK, 1),
            Action::GetId => (GET_ID, 0, vec![], buffers(20), OK, 21),
            Action::Discard { from, sectors } => {
                segment(self, from, sectors, 0);
                (DISCARD, 0, buffers(16), vec![], OK, 1)
            }
            Action::Zeroes { from, sectors, unmap } => {
                segment(self, from, sectors, unmap);
                (WRITE_ZEROES, 0, buffers(16), vec![], OK, 1)
            }
            Action::Unknown(kind) => (kind, 0, vec![], vec![], UNSUPP, 1),
            Action::Beyond { kind: IN } => (IN, end - 1, vec![], buffers(1024), IOERR, 0),
            Action::Beyond { kind } => (kind, end - 1, buffers(1024), vec![], IOERR, 1),
            Action::Odd { kind: IN, len } => (IN, first, vec![], buffers(len), IOERR, 0),
            Action::Odd { kind, len } => (kind, first, buffers(len), vec![], IOERR, 1),
        };
        self.put(header(region), &kind.to_le_bytes());
        self.put(header(region) + 8, &sector.to_le_bytes());
        self.put(status(region), &[0xaa]);
        let readable = [&[(header(region), 16)], &readable[..]].concat();
        let writable = [&writable[..], &[(status(region), 1)]].concat();
        let driver = &mut self.queues[usize::from(ask.queue)];
        assert!(driver.has_room(readable.len() + writable.len()));
        let head = driver.offer(&self.machine, &readable, &writable);
        (ask.queue, head, expected, len)
    }

    /// The bytes of a region after its request was done.
    fn after(&self, region: usize, action: &Action) -> Vec<u8> {
        let mut bytes = self.model[region * REGION..(region + 1) * REGION].to_vec();
        match *action {
            Action::Write { from, sectors, seed } => {
                let written = (0u8..=255).cycle().map(|n| n.wrapping_mul(seed | 1));
                bytes[Self::range(from, sectors)].iter_mut().zip(written).for_each(|(to, from)| *to = from);
            }
            Action::Zeroes { from, sectors, .. } | Action::Discard { from, sectors } => {
                bytes[Self::range(from, sectors)].fill(0);
            }
            _ => {}
        }
        bytes
    }

    /// The bytes of these sectors in a region.
    fn range(from: u64, sectors: u64) -> std::ops::Range<usize> {
        from as usize * 512..(from + sectors) as usize * 512
    }

    fn perform(&mut self, batch: &Batch) -> Result<(), TestCaseError> {
        let expected: Vec<_> =
            batch.asks.iter().enumerate().map(|(region, ask)| self.offer(region, ask)).collect();
        self.queues.iter().for_each(|queue| queue.kick(&self.machine));
        let is_reset = match batch.reset_after {
            Some(turns) => {
                for _ in 0..turns {
                    self.machine.turn();
                }
                self.machine.write(at::DEVICE_STATUS, &[0]);
                true
            }
            None => false,
        };
        self.machine.settle();
        let file = std::fs::read(&self.scratch.0).unwrap();
        if is_reset {
            prop_assert_eq!(self.machine.status(), 0);
            self.queues.iter_mut().for_each(|queue| drop(queue.take_used(&self.machine)));
        } else {
            let mut used: Vec<Vec<(u16, u32)>> =
                self.queues.iter_mut().map(|queue| queue.take_used(&self.machine)).collect();
            for (region, (queue, head, expected, len)) in expected.into_iter().enumerate() {
                let answers = &mut used[usize::from(queue)];
                let at = answers.iter().position(|(used, _)| *used == head);
                let answer = at.map(|at| answers.remove(at));
                prop_assert_eq!(answer, Some((head, len)), "{:?}", batch.asks[region]);
                prop_assert_eq!(self.get(status(region), 1)[0], expected, "{:?}", batch.asks[region]);
                if let Action::Read { from, sectors } = batch.asks[region].action {
                    let model = &self.model[region * REGION..][Self::range(from, sectors)];
                    prop_assert!(self.get(data(region), model.len()) == model, "{:?}", batch.asks[region]);
                }
            }
            prop_assert!(used.iter().all(Vec::is_empty));
        }
        for (region, bytes) in file.chunks(REGION).enumerate() {
            let before = self.model[region * REGION..(region + 1) * REGION].to_vec();
            let after = batch.asks.get(region).map(|ask| self.after(region, &ask.action));
            let after = after.unwrap_or_else(|| before.clone());
            for (sector, bytes) in bytes.chunks(512).enumerate() {
                let at = sector * 512..(sector + 1) * 512;
                let is_after = bytes == &after[at.clone()];
                let may_be_before = is_reset && bytes == &before[at];
                prop_assert!(is_after || may_be_before, "sector {sector} of region {region}");
            }
        }
        self.model = file;
        if is_reset {
            self.machine.drive_queues(ALL, &mut self.queues);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_disk_has_what_was_written_to_it_whatever_the_order_and_across_resets(
        batches in prop::collection::vec(batch(), 1..12),
        seed in any::<u64>(),
    ) {
        let mut run = Run::new(seed);
        for batch in &batches {
            run.perform(batch)?;
        }
    }
}
