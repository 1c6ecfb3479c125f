//! The block device (virtio 1.2 §5.2), by its driver.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::blk::engine::{Engine, EngineKind, Finished, engine};
use super::super::blk::operation::{Durability, Kind, Operation};
use super::super::blk::{Disk, DiskImage, ImageAccess};
use super::super::registers::{COMMON_FEATURES, NEEDS_RESET};
use super::super::worker::Workers;
use super::driver::{Buffer, QueueDriver};
use super::{Driver, Machine, RAM, at, message};
use crate::outcome::ExitEvent;

pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
pub(super) const FLUSH: u32 = 4;
pub(super) const GET_ID: u32 = 8;
pub(super) const DISCARD: u32 = 11;
pub(super) const WRITE_ZEROES: u32 = 13;

pub(super) const OK: u8 = 0;
pub(super) const IOERR: u8 = 1;
pub(super) const UNSUPP: u8 = 2;

const SECTORS: u64 = 256;
const ENTRIES: u16 = 64;
/// Headers and statuses, and data.
const HEADERS: u64 = 0x1_0000;
const STATUSES: u64 = 0x1_8000;
const DATA: u64 = 0x2_0000;

pub(super) const ALL: u64 = COMMON_FEATURES
    | 1 << VIRTIO_BLK_F_FLUSH
    | 1 << VIRTIO_BLK_F_DISCARD
    | 1 << VIRTIO_BLK_F_WRITE_ZEROES
    | 1 << VIRTIO_BLK_F_CONFIG_WCE;

/// An image with a pattern, removed at the end.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("vmm-disk-{}-{name}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub(super) fn pattern(sectors: u64) -> Vec<u8> {
    (0..sectors * 512).map(|n| (n / 512 * 7 + n) as u8).collect()
}

/// Answers of a host whose operations a test has scripted: what it says to an operation, if not what the file says.
type Script = Box<dyn FnMut(&Operation) -> Option<io::Result<u64>> + Send>;

/// An engine that performs its operations when they are reaped, newest first, by a script.
pub(super) struct Scripted {
    waiting: Vec<(u16, Operation)>,
    eventfd: EventFd,
    script: Script,
    log: Arc<Mutex<Vec<Kind>>>,
}

impl Scripted {
    pub(super) fn engine(script: Script) -> (Box<dyn Engine>, Arc<Mutex<Vec<Kind>>>) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let eventfd = EventFd::new(EFD_NONBLOCK).unwrap();
        (Box::new(Self { waiting: Vec::new(), eventfd, script, log: Arc::clone(&log) }), log)
    }
}

impl Engine for Scripted {
    fn submit(&mut self, tag: u16, operation: Operation) -> Result<(), (Operation, io::Error)> {
        self.log.lock().unwrap().push(operation.kind);
        self.waiting.push((tag, operation));
        self.eventfd.write(1).unwrap();
        Ok(())
    }

    fn flush(&mut self) {}

    fn reap(&mut self) -> Option<Finished> {
        let (tag, operation) = self.waiting.pop()?;
        let scripted = (self.script)(&operation);
        let result = scripted.unwrap_or_else(|| operation.perform());
        Some(Finished { tag, operation, result })
    }

    fn eventfd(&self) -> &EventFd {
        &self.eventfd
    }
}

/// An engine that never finishes an operation.
struct Stuck {
    eventfd: EventFd,
    in_flight: Arc<AtomicUsize>,
}

impl Stuck {
    fn engine() -> (Box<dyn Engine>, Arc<AtomicUsize>) {
        let in_flight = Arc::new(AtomicUsize::new(0));
        let eventfd = EventFd::new(EFD_NONBLOCK).unwrap();
        (Box::new(Self { eventfd, in_flight: Arc::clone(&in_flight) }), in_flight)
    }
}

impl Engine for Stuck {
    fn submit(&mut self, _tag: u16, _operation: Operation) -> Result<(), (Operation, io::Error)> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn flush(&mut self) {}

    fn reap(&mut self) -> Option<Finished> {
        None
    }

    fn eventfd(&self) -> &EventFd {
        &self.eventfd
    }
}

/// Makes `count` engines for a file.
fn engines_of(kind: EngineKind, count: u64) -> impl FnOnce(&fs::File) -> Vec<Box<dyn Engine>> {
    move |file| (0..count).map(|_| engine(kind, 256, file).unwrap()).collect()
}

/// A driven disk.
struct Driven {
    machine: Machine,
    queues: Vec<QueueDriver>,
    scratch: Scratch,
}

impl Driven {
    fn with(
        name: &str,
        access: ImageAccess,
        engines: impl FnOnce(&fs::File) -> Vec<Box<dyn Engine>>,
        features: u64,
    ) -> Self {
        let scratch = Scratch::new(name, &pattern(SECTORS));
        let image = DiskImage::open(&scratch.0, access).unwrap();
        let engines = engines(image.file());
        let queues = engines.len() as u16;
        let model = Disk::with_engines(image, "serial-1".into(), EngineKind::Threads, engines);
        let machine = Machine::of(model);
        machine.enable_msix();
        let base = |queue| u64::from(queue) * QueueDriver::BYTES + 0x1000;
        let mut queues: Vec<_> =
            (0..queues).map(|queue| QueueDriver::new(queue, base(queue), ENTRIES)).collect();
        machine.drive_queues(features, &mut queues);
        Self { machine, queues, scratch }
    }

    fn new(name: &str, kind: EngineKind) -> Self {
        Self::with(name, ImageAccess::ReadWrite, engines_of(kind, 1), ALL)
    }

    fn scripted(
        name: &str,
        script: impl FnMut(&Operation) -> Option<io::Result<u64>> + Send + 'static,
    ) -> (Self, Arc<Mutex<Vec<Kind>>>) {
        let (engine, log) = Scripted::engine(Box::new(script));
        (Self::with(name, ImageAccess::ReadWrite, |_| vec![engine], ALL), log)
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.machine.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.machine.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn header(&self, kind: u32, sector: u64) {
        self.put(HEADERS, &kind.to_le_bytes());
        self.put(HEADERS + 4, &[0; 4]);
        self.put(HEADERS + 8, &sector.to_le_bytes());
        self.put(STATUSES, &[0xaa]);
    }

    /// Sends the request of [`Driven::header`] with these data buffers, and waits. Returns status and used length.
    fn send(&mut self, readable: &[Buffer], writable: &[Buffer]) -> (u8, u32) {
        let readable = [&[(HEADERS, 16)], readable].concat();
        let writable = [writable, &[(STATUSES, 1)]].concat();
        self.queues[0].offer(&self.machine, &readable, &writable);
        self.queues[0].kick(&self.machine);
        let used = self.wait(0);
        (self.get(STATUSES, 1)[0], used)
    }

    /// Waits for one used chain, and returns its length.
    fn wait(&mut self, queue: usize) -> u32 {
        let start = Instant::now();
        loop {
            self.machine.settle();
            match self.queues[queue].take_used(&self.machine)[..] {
                [(_, len)] => return len,
                [] => assert!(start.elapsed() < Duration::from_secs(30), "no answer"),
                _ => panic!("more answers than requests"),
            }
        }
    }

    fn request(&mut self, kind: u32, sector: u64, readable: &[Buffer], writable: &[Buffer]) -> (u8, u32) {
        self.header(kind, sector);
        self.send(readable, writable)
    }

    fn segment(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> (u8, u32) {
        self.put(DATA, &sector.to_le_bytes());
        self.put(DATA + 8, &sectors.to_le_bytes());
        self.put(DATA + 12, &flags.to_le_bytes());
        self.request(kind, 0, &[(DATA, 16)], &[])
    }

    fn report(&self, field: &str) -> u64 {
        self.machine.transport.report()[field].as_u64().unwrap()
    }
}

/// The engines of this host.
fn engines() -> Vec<EngineKind> {
    BTreeSet::from([EngineKind::probe() as u8, EngineKind::Threads as u8])
        .into_iter()
        .map(|kind| if kind == EngineKind::Uring as u8 { EngineKind::Uring } else { EngineKind::Threads })
        .collect()
}

#[test]
fn reads_and_writes_reach_the_image_however_they_are_cut() {
    for kind in engines() {
        let mut disk = Driven::new(&format!("cut-{kind}"), kind);
        let before = pattern(SECTORS);
        let (status, used) = disk.request(IN, 3, &[], &[(DATA, 100), (DATA + 0x1000, 924)]);
        assert_eq!((status, used), (OK, 1025));
        let got = [disk.get(DATA, 100), disk.get(DATA + 0x1000, 924)].concat();
        assert_eq!(got, before[3 * 512..5 * 512]);

        let data: Vec<u8> = (0..1024).map(|n| (n * 3) as u8).collect();
        disk.header(OUT, 7);
        disk.put(DATA, &data[..24]);
        disk.put(DATA + 0x100, &data[24..]);
        // The header in three buffers, the last one with the first bytes of data.
        disk.put(DATA + 0x800, &disk.get(HEADERS + 12, 4));
        disk.put(DATA + 0x804, &data[..24]);
        let readable = [(HEADERS, 5), (HEADERS + 5, 7), (DATA + 0x800, 28), (DATA + 0x100, 1000)];
        disk.queues[0].offer(&disk.machine, &readable, &[(STATUSES, 1)]);
        disk.queues[0].kick(&disk.machine);
        assert_eq!((disk.wait(0), disk.get(STATUSES, 1)), (1, vec![OK]));
        assert_eq!(disk.request(FLUSH, 0, &[], &[]), (OK, 1));
        let after = disk.scratch.bytes();
        assert_eq!(after[7 * 512..9 * 512], data);
        assert_eq!((&after[..7 * 512], &after[9 * 512..]), (&before[..7 * 512], &before[9 * 512..]));
        let counts = ["reads", "writes", "flushes", "read_bytes", "written_bytes", "host_errors", "refused"];
        assert_eq!(counts.map(|field| disk.report(field)), [1, 1, 1, 1024, 1024, 0, 0]);
    }
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeroes() {
    for kind in engines() {
        let mut disk = Driven::new(&format!("zero-{kind}"), kind);
        for (request, sector, flags) in [(DISCARD, 8, 0), (WRITE_ZEROES, 32, 0), (WRITE_ZEROES, 64, 1)] {
            assert_eq!(disk.segment(request, sector, 8, flags), (OK, 1));
            let range = sector as usize * 512..(sector as usize + 8) * 512;
            assert_eq!(disk.scratch.bytes()[range], [0; 8 * 512]);
        }
        let (mut expected, after) = (pattern(SECTORS), disk.scratch.bytes());
        for sector in [8, 32, 64] {
            expected[sector * 512..(sector + 8) * 512].fill(0);
        }
        assert!(after == expected, "nothing else has changed");
    }
}

#[test]
fn the_serial_number_has_20_bytes() {
    let mut disk = Driven::new("id", EngineKind::Threads);
    assert_eq!(disk.request(GET_ID, 0, &[], &[(DATA, 20)]), (OK, 21));
    assert_eq!(disk.get(DATA, 20), *b"serial-1\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(disk.request(GET_ID, 0, &[], &[(DATA, 6)]), (OK, 7));
    disk.put(DATA, &[0xee; 64]);
    assert_eq!(disk.request(GET_ID, 0, &[], &[(DATA, 64)]), (OK, 20));
    assert_eq!(disk.get(DATA + 20, 44), [0xee; 44]);
}

#[test]
fn requests_beyond_the_disk_or_of_no_whole_sectors_are_errors() {
    let mut disk = Driven::new("beyond", EngineKind::Threads);
    let data = |len| [(DATA, len)];
    for (sector, len, status) in [
        (SECTORS - 1, 512, OK),
        (SECTORS, 512, IOERR),
        (SECTORS - 1, 1024, IOERR),
        (u64::MAX, 512, IOERR),
        (u64::MAX / 512 + 1, 512, IOERR),
        (0, 511, IOERR),
        (0, 513, IOERR),
        (SECTORS, 0, OK),
        (SECTORS + 1, 0, IOERR),
    ] {
        assert_eq!(disk.request(IN, sector, &[], &data(len)).0, status, "{sector} {len}");
        disk.put(DATA, &[1; 1024]);
        assert_eq!(disk.request(OUT, sector, &data(len), &[]).0, status, "{sector} {len}");
    }
    for (request, most) in [(DISCARD, 1 << 21), (WRITE_ZEROES, 1 << 15)] {
        for (sector, sectors) in [(0, 257), (SECTORS, 1), (u64::MAX, 2), (0, most + 1), (0, u32::MAX)] {
            assert_eq!(disk.segment(request, sector, sectors, 0), (IOERR, 1));
        }
        assert_eq!(disk.segment(request, 0, 0, 0), (OK, 1));
        assert_eq!(disk.request(request, 0, &[(DATA, 32)], &[]), (IOERR, 1), "one segment at most");
        assert_eq!(disk.request(request, 0, &[(DATA, 15)], &[]), (IOERR, 1));
    }
    let mut expected = pattern(SECTORS);
    expected[(SECTORS as usize - 1) * 512..].fill(1);
    assert!(disk.scratch.bytes() == expected);
}

#[test]
fn unknown_requests_and_flags_are_unsupported() {
    let mut disk = Driven::new("unknown", EngineKind::Threads);
    for kind in [2, 3, 14, 16, 100, 0x8000_0000, u32::MAX] {
        assert_eq!(disk.request(kind, 0, &[], &[]), (UNSUPP, 1), "{kind}");
    }
    assert_eq!(disk.segment(DISCARD, 0, 1, 1), (UNSUPP, 1), "a discard has no flag");
    assert_eq!(disk.segment(WRITE_ZEROES, 0, 1, 2), (UNSUPP, 1));
    disk.machine.reset();
    disk.machine.drive_queues(COMMON_FEATURES, &mut disk.queues);
    for request in [DISCARD, WRITE_ZEROES] {
        assert_eq!(disk.segment(request, 0, 1, 0), (UNSUPP, 1), "not negotiated");
    }
    assert!(disk.scratch.bytes() == pattern(SECTORS));
}

#[test]
fn data_of_the_wrong_direction_or_outside_of_ram_is_an_error() {
    let mut disk = Driven::new("direction", EngineKind::Threads);
    let data = [(DATA, 512)];
    assert_eq!(disk.request(IN, 0, &data, &[]), (IOERR, 1));
    assert_eq!(disk.request(OUT, 0, &[], &data), (IOERR, 0));
    assert_eq!(disk.request(DISCARD, 0, &[], &data), (IOERR, 0));
    for (address, len) in [(RAM, 512), (RAM - 256, 512), (u64::MAX - 511, 512), (RAM, 0xffff_fe00)] {
        assert_eq!(disk.request(IN, 0, &[], &[(address, len)]).0, IOERR);
        assert_eq!(disk.request(OUT, 0, &[(address, len)], &[]).0, IOERR);
    }
    assert_eq!(disk.request(GET_ID, 0, &[], &[(RAM, 20)]).0, IOERR);
    assert!(disk.scratch.bytes() == pattern(SECTORS));
    assert_eq!(disk.machine.status() & NEEDS_RESET, 0);
    assert_eq!(disk.request(IN, 0, &[], &data), (OK, 513), "it works on");
}

#[test]
fn a_request_without_header_or_status_stops_the_device_until_its_reset() {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    let mut disk = Driven::new("broken", EngineKind::Threads);
    let bad: [(&[Buffer], &[Buffer]); 5] = [
        (&[(HEADERS, 15)], &[(STATUSES, 1)]),
        (&[], &[(STATUSES, 1)]),
        (&[(HEADERS, 16)], &[]),
        (&[(HEADERS, 16)], &[(STATUSES, 0)]),
        (&[(HEADERS, 16)], &[(RAM, 1)]),
    ];
    for (readable, writable) in bad {
        disk.header(IN, 0);
        disk.queues[0].offer(&disk.machine, readable, writable);
        disk.queues[0].kick(&disk.machine);
        disk.machine.settle();
        stopped_and_reset(&mut disk);
    }
    let describe: [fn(&Machine, u16); 2] = [
        // A chain that loops.
        |machine, head| machine.describe_at(0x1000, head.into(), HEADERS, 16, NEXT, head),
        // A readable buffer behind a writable one.
        |machine, head| {
            machine.describe_at(0x1000, head.into(), HEADERS, 16, NEXT, 62);
            machine.describe_at(0x1000, 62, STATUSES, 1, NEXT | WRITE, 61);
            machine.describe_at(0x1000, 61, HEADERS, 16, 0, 0);
        },
    ];
    for describe in describe {
        disk.header(IN, 0);
        let head = disk.queues[0].offer(&disk.machine, &[(HEADERS, 16)], &[]);
        describe(&disk.machine, head);
        disk.queues[0].kick(&disk.machine);
        disk.machine.settle();
        stopped_and_reset(&mut disk);
    }
    assert_eq!(disk.machine.transport.report()["queues"][0]["invalid"], 7);
}

/// The device has stopped, answered nothing, and works again after a reset.
fn stopped_and_reset(disk: &mut Driven) {
    assert_eq!(disk.machine.status() & NEEDS_RESET, NEEDS_RESET);
    assert_eq!((disk.queues[0].take_used(&disk.machine), disk.get(STATUSES, 1)), (vec![], vec![0xaa]));
    disk.machine.reset();
    disk.machine.drive_queues(ALL, &mut disk.queues);
    assert_eq!(disk.request(IN, 0, &[], &[(DATA, 512)]), (OK, 513));
}

#[test]
fn a_read_only_disk_says_so_and_refuses_to_write() {
    let engines = engines_of(EngineKind::Threads, 1);
    let features = COMMON_FEATURES | 1 << VIRTIO_BLK_F_RO | 1 << VIRTIO_BLK_F_FLUSH;
    let mut disk = Driven::with("read-only", ImageAccess::ReadOnly, engines, features);
    disk.machine.write(at::DEVICE_FEATURE_SELECT, &0u32.to_le_bytes());
    let offered = disk.machine.read::<4>(at::DEVICE_FEATURE);
    let writing = [VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_MQ];
    assert!(offered >> VIRTIO_BLK_F_RO & 1 == 1 && writing.iter().all(|bit| offered >> bit & 1 == 0));
    assert_eq!(disk.request(OUT, 0, &[(DATA, 512)], &[]), (IOERR, 1));
    assert_eq!(disk.segment(DISCARD, 0, 1, 0), (UNSUPP, 1));
    assert_eq!(disk.request(IN, 0, &[], &[(DATA, 512)]), (OK, 513));
    assert_eq!(disk.request(FLUSH, 0, &[], &[]), (OK, 1));
    assert!(disk.scratch.bytes() == pattern(SECTORS));
}

#[test]
fn an_error_of_the_host_is_an_error_of_the_request_and_nothing_else() {
    for (kind, refused) in [(IN, libc::EIO), (OUT, libc::ENOSPC), (FLUSH, libc::EIO), (DISCARD, libc::EIO)] {
        let error = move |_: &Operation| Some(Err(io::Error::from_raw_os_error(refused)));
        let (mut disk, _) = Driven::scripted(&format!("host-{kind}"), error);
        let status = match kind {
            IN => disk.request(IN, 0, &[], &[(DATA, 512)]),
            OUT => disk.request(OUT, 0, &[(DATA, 512)], &[]),
            FLUSH => disk.request(FLUSH, 0, &[], &[]),
            _ => disk.segment(DISCARD, 0, 1, 0),
        };
        assert_eq!(status, (IOERR, u32::from(kind != IN)));
        assert_eq!((disk.report("host_errors"), disk.machine.status() & NEEDS_RESET), (1, 0));
    }
}

#[test]
fn an_image_that_became_shorter_is_an_error_where_it_ends() {
    for kind in engines() {
        let mut disk = Driven::new(&format!("short-{kind}"), kind);
        fs::File::options().write(true).open(&disk.scratch.0).unwrap().set_len(10 * 512 + 100).unwrap();
        assert_eq!(disk.request(IN, 9, &[], &[(DATA, 512)]), (OK, 513));
        assert_eq!(disk.request(IN, 10, &[], &[(DATA, 512)]), (IOERR, 0));
        assert_eq!(disk.request(IN, 100, &[], &[(DATA, 512)]), (IOERR, 0));
    }
}

#[test]
fn short_transfers_go_on_where_they_stopped() {
    let (mut disk, log) = Driven::scripted("transfer", |operation| {
        let done = operation.perform().unwrap();
        Some(if operation.len > 200 { Ok(done.min(130)) } else { Ok(done) })
    });
    let data: Vec<u8> = (0..1024).map(|n| (n * 5) as u8).collect();
    disk.put(DATA, &data);
    assert_eq!(disk.request(OUT, 2, &[(DATA, 100), (DATA + 100, 924)], &[]), (OK, 1));
    assert_eq!(disk.scratch.bytes()[2 * 512..4 * 512], data);
    assert_eq!(disk.request(IN, 2, &[], &[(DATA + 0x1000, 300), (DATA + 0x2000, 724)]), (OK, 1025));
    assert_eq!([disk.get(DATA + 0x1000, 300), disk.get(DATA + 0x2000, 724)].concat(), data);
    assert_eq!(log.lock().unwrap().len(), 16, "eight operations each");
}

#[test]
fn on_a_file_system_that_cannot_zero_a_range_zeroes_are_written_and_discards_are_ignored() {
    let unsupported = |operation: &Operation| {
        let is_range = matches!(operation.kind, Kind::PunchHole | Kind::ZeroRange);
        is_range.then(|| Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)))
    };
    let (mut disk, log) = Driven::scripted("unsupported", unsupported);
    assert_eq!(disk.segment(DISCARD, 0, 200, 0), (OK, 1));
    assert!(disk.scratch.bytes() == pattern(SECTORS));
    assert_eq!(disk.segment(WRITE_ZEROES, 1, 200, 1), (OK, 1));
    let mut expected = pattern(SECTORS);
    expected[512..201 * 512].fill(0);
    assert!(disk.scratch.bytes() == expected);
    let kinds = [Kind::PunchHole, Kind::PunchHole, Kind::Write(Durability::Cached)];
    assert_eq!(*log.lock().unwrap(), kinds);
}

#[test]
fn writes_are_durable_at_once_without_a_write_cache() {
    let (mut disk, log) = Driven::scripted("durable", |_| None);
    let kinds = |disk: &mut Driven| {
        assert_eq!(disk.request(OUT, 0, &[(DATA, 512)], &[]), (OK, 1));
        assert_eq!(disk.segment(WRITE_ZEROES, 0, 8, 1), (OK, 1));
        std::mem::take(&mut *log.lock().unwrap())
    };
    let cached = [Kind::Write(Durability::Cached), Kind::PunchHole];
    let durable = [Kind::Write(Durability::Immediate), Kind::PunchHole, Kind::Sync];
    assert_eq!(kinds(&mut disk), cached);
    disk.machine.write(at::DEVICE_CONFIG + 32, &[0]);
    assert_eq!(disk.machine.read::<1>(at::DEVICE_CONFIG + 32), 0);
    assert_eq!(kinds(&mut disk), durable);
    disk.machine.write(at::DEVICE_CONFIG + 32, &[1]);
    assert_eq!(kinds(&mut disk), cached);
    disk.machine.reset();
    disk.machine.drive_queues(ALL & !(1 << VIRTIO_BLK_F_FLUSH), &mut disk.queues);
    assert_eq!(kinds(&mut disk), durable, "the driver cannot flush");
}

#[test]
fn the_configuration_describes_the_image() {
    let engines = engines_of(EngineKind::Threads, 4);
    let disk = Driven::with("config", ImageAccess::ReadWrite, engines, ALL | 1 << VIRTIO_BLK_F_MQ);
    let field = |offset| disk.machine.read::<4>(at::DEVICE_CONFIG + offset);
    assert_eq!(disk.machine.read::<8>(at::DEVICE_CONFIG), SECTORS);
    assert_eq!((field(12), field(20), disk.machine.read::<1>(at::DEVICE_CONFIG + 24)), (254, 512, 3));
    assert_eq!((disk.machine.read::<1>(at::DEVICE_CONFIG + 32), field(32) >> 16), (1, 4));
    assert_eq!([36, 40, 44, 48, 52, 56].map(field), [1 << 21, 1, 8, 1 << 15, 1, 1]);
    assert_eq!(disk.machine.read::<2>(at::NUM_QUEUES), 4);
    let capability = disk.machine.structure(4).unwrap();
    assert_eq!(disk.machine.config_read::<4>(capability + 12), 60);
}

#[test]
fn each_queue_answers_with_its_own_vector() {
    let engines = engines_of(EngineKind::Threads, 3);
    let mut disk = Driven::with("queues", ImageAccess::ReadWrite, engines, ALL | 1 << VIRTIO_BLK_F_MQ);
    for queue in [2, 0, 1] {
        disk.header(IN, 5);
        let (machine, driver) = (&disk.machine, &mut disk.queues[queue]);
        driver.offer(machine, &[(HEADERS, 16)], &[(DATA, 512), (STATUSES, 1)]);
        driver.kick(machine);
        assert_eq!(disk.wait(queue), 513);
        assert_eq!(disk.get(DATA, 512), pattern(SECTORS)[5 * 512..6 * 512]);
        assert_eq!(disk.machine.router.take_delivered(), [message(queue as u8 + 1)]);
    }
}

#[test]
fn a_queue_has_as_many_requests_in_flight_as_entries_and_a_driver_that_wants_more_stops_the_device() {
    let (engine, in_flight) = Stuck::engine();
    let mut disk = Driven::with("stuck", ImageAccess::ReadWrite, |_| vec![engine], ALL);
    disk.header(IN, 0);
    let queue = &mut disk.queues[0];
    let head = queue.offer(&disk.machine, &[(HEADERS, 16)], &[(DATA, 512), (STATUSES, 1)]);
    // The chain is made available again while it is in flight.
    for more in [ENTRIES - 1, 1] {
        assert_eq!(disk.machine.status() & NEEDS_RESET, 0);
        (0..more).for_each(|_| queue.make_available(&disk.machine, head));
        queue.kick(&disk.machine);
        disk.machine.settle();
        assert_eq!(in_flight.load(Ordering::Relaxed), usize::from(ENTRIES));
    }
    assert_eq!(disk.machine.status() & NEEDS_RESET, NEEDS_RESET);
}

#[test]
fn on_real_threads_every_request_is_answered_and_resets_under_load_complete() {
    const QUEUES: u64 = 3;
    const REQUESTS: u64 = 12;
    for kind in engines() {
        let engines = engines_of(kind, QUEUES);
        let features = ALL | 1 << VIRTIO_BLK_F_MQ;
        let mut disk = Driven::with(&format!("threads-{kind}"), ImageAccess::ReadWrite, engines, features);
        let run = ExitEvent::new().unwrap();
        let lanes = disk.machine.lanes.take();
        let mut workers = Workers::start(Arc::clone(&disk.machine.transport), lanes, &run).unwrap();
        for round in 0..100u64 {
            for request in 0..QUEUES * REQUESTS {
                let at = HEADERS + 0x40 * request;
                let data: Vec<u8> = (0..512u64).map(|n| (n * 3 + request * 5 + round) as u8).collect();
                disk.put(at, &OUT.to_le_bytes());
                disk.put(at + 8, &request.to_le_bytes());
                disk.put(at + 0x20, &[0xaa]);
                disk.put(DATA + 512 * request, &data);
                let (readable, writable) = ([(at, 16), (DATA + 512 * request, 512)], [(at + 0x20, 1)]);
                disk.queues[(request % QUEUES) as usize].offer(&disk.machine, &readable, &writable);
                disk.queues[(request % QUEUES) as usize].kick(&disk.machine);
            }
            let start = Instant::now();
            let in_time = |what: &str| assert!(start.elapsed() < Duration::from_secs(30), "{kind}: {what}");
            if round % 4 == 3 {
                disk.machine.write(at::DEVICE_STATUS, &[0]);
                while disk.machine.status() != 0 {
                    in_time("no reset");
                    std::thread::yield_now();
                }
                disk.machine.drive_queues(features, &mut disk.queues);
                continue;
            }
            let mut answers = 0;
            while answers < QUEUES * REQUESTS {
                in_time("no answer");
                let used = disk.queues.iter_mut().map(|queue| queue.take_used(&disk.machine).len() as u64);
                answers += used.sum::<u64>();
                std::thread::yield_now();
            }
            let file = disk.scratch.bytes();
            for request in 0..QUEUES * REQUESTS {
                assert_eq!(disk.get(HEADERS + 0x40 * request + 0x20, 1), [OK]);
                let written = disk.get(DATA + 512 * request, 512);
                assert!(file[request as usize * 512..][..512] == written, "{kind}: request {request}");
            }
        }
        workers.stop();
        assert!(!run.is_signalled());
    }
}
