//! A machine without KVM and VFIO: the VMM's own buses with every kind of device, over fakes.
//!
//! The lanes of virtio devices have no threads: [`Machine::serve`] runs each once. The passed-through function is a file, and its
//! interrupts are over a fake backend.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fd::AsRawFd;
use vm_device::device_manager::IoManager;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vm_msi::ims::SlotCount;
use vm_msi::message::MsiMessage;
use vm_msi::router::RouterError;
use vm_msi::testing::{Failures, FakeRouter};

use crate::cli::SerialTarget;
use crate::devices::ioapic::{EndRoutes, Ioapic};
use crate::ims;
use crate::interrupts::Line;
use crate::layout;
use crate::outcome::ExitEvent;
use crate::pci::{Function, Root, Windows};
use crate::serial::Port;
use crate::serial::input::Source;
use crate::tap::Offloads;
use crate::virtio::console::size::Size;
use crate::virtio::console::{Console, Ends};
use crate::virtio::interrupts::Interrupts;
use crate::virtio::lane_loop::{LaneLoop, Turn};
use crate::virtio::net::{Datapath, Link, Net};
use crate::virtio::pci::{Doorbells, PciFunction, layout as virtio_layout};
use crate::virtio::transport::Transport;
use crate::virtio::vsock::host::HostSocket;
use crate::virtio::vsock::{GuestCid, HostEnd};
use crate::virtio::worker::Workers;
use crate::virtio::{Disk, DiskImage, ImageAccess, Model, Rng, Vsock};
use crate::vm::buses;

/// Guest memory in bytes.
pub(super) const RAM: usize = 1 << 20;
const PCI_MMIO64: std::ops::Range<u64> = 1 << 40..1 << 41;

/// The machine.
pub(super) struct Machine {
    pub(super) buses: IoManager,
    pub(super) memory: GuestMemoryMmap,
    pub(super) root: Arc<Root>,
    pub(super) ioapic: Arc<Ioapic>,
    pub(super) router: Arc<FakeRouter>,
    lanes: Mutex<Vec<LaneLoop>>,
    /// The other ends of the network device and of the console, kept open.
    pub(super) peer: UnixDatagram,
    pub(super) host: Host,
    _console: (std::io::PipeWriter, std::io::PipeReader),
}

/// The host's programs at the ends of sockets: one that listens on [`HOST_PORT`], and those that connect.
pub(super) struct Host {
    directory: PathBuf,
    listener: UnixListener,
    streams: Mutex<Vec<UnixStream>>,
}

/// The port of the host on which a program listens.
pub(super) const HOST_PORT: u32 = 1;
/// Programs at once.
const MOST_STREAMS: usize = 16;

impl Host {
    /// The programs, and the socket device.
    fn new() -> (Self, Model) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("vmm-fuzz-{}-{number}", std::process::id()));
        std::fs::create_dir(&directory).expect("a directory");
        let socket = HostSocket::bind(&directory.join("socket")).expect("a socket");
        let listener =
            UnixListener::bind(directory.join(format!("socket_{HOST_PORT}"))).expect("a socket of a port");
        listener.set_nonblocking(true).expect("a socket of a port");
        let cid = GuestCid::new(3).expect("an identifier");
        let model = Vsock::model(cid, HostEnd::Unix(socket), None).expect("a socket device");
        (Self { directory, listener, streams: Mutex::default() }, model)
    }

    /// A program asks for a port of the guest, by any line.
    pub(super) fn connect(&self, line: &[u8]) {
        let Ok(stream) = UnixStream::connect(self.directory.join("socket")) else { return };
        stream.set_nonblocking(true).expect("a stream");
        let _ = io::Write::write(&mut &stream, line);
        self.keep(stream);
    }

    /// Takes the guest's connections. Each program reads, and writes so much.
    pub(super) fn talk(&self, bytes: usize) {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).expect("a stream");
            self.keep(stream);
        }
        for stream in self.streams.lock().expect("no panic").iter() {
            let _ = io::Read::read(&mut &*stream, &mut [0; 4096]);
            let _ = io::Write::write(&mut &*stream, &vec![1; bytes]);
        }
    }

    /// A program ends.
    pub(super) fn end(&self, number: usize) {
        let mut streams = self.streams.lock().expect("no panic");
        if !streams.is_empty() {
            let number = number % streams.len();
            streams.remove(number);
        }
    }

    fn keep(&self, stream: UnixStream) {
        let mut streams = self.streams.lock().expect("no panic");
        if streams.len() < MOST_STREAMS {
            streams.push(stream);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // What is left in the directory of temporary files hurts nobody.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Routes of level-triggered pins that nobody uses.
struct NoRoutes;

impl EndRoutes for NoRoutes {
    fn set(&self, _: &[(u32, MsiMessage)]) -> Result<(), RouterError> {
        Ok(())
    }
}

/// A network link over a datagram socket.
struct Socket([Arc<File>; 1]);

impl Link for Socket {
    fn name(&self) -> &str {
        "socket"
    }

    fn queues(&self) -> &[Arc<File>] {
        &self.0
    }

    fn offloads(&self) -> Offloads {
        Offloads::CHECKSUM.union(Offloads::TSO4)
    }

    fn mtu(&self) -> Option<u16> {
        Some(1500)
    }

    fn set_offloads(&self, _: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn attach(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
}

impl Machine {
    /// The machine at power-on.
    pub(super) fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).expect("guest memory");
        let router = Arc::new(FakeRouter::new(Failures::default()));
        let exit_event = ExitEvent::new().expect("an eventfd");
        let root =
            Root::new(Windows { mmio32: layout::PCI_MMIO32, mmio64: PCI_MMIO64, pio: layout::PCI_PIO });
        let passed: Arc<dyn Function> = crate::vfio::fuzzed_function(&root);
        root.add(passed).expect("room on the bus");

        let mut lanes = Vec::new();
        let (own, peer) = UnixDatagram::pair().expect("a socket");
        own.set_nonblocking(true).expect("a socket");
        peer.set_nonblocking(true).expect("a socket");
        let link = Socket([Arc::new(File::from(OwnedFd::from(own)))]);
        let mac = "02:00:00:00:00:01".parse().expect("an address");
        let (input, keys) = io::pipe().expect("a pipe");
        let (screen, output) = io::pipe().expect("a pipe");
        let ends = Ends { input: input.into(), output: output.into(), source: Source::of_stdin() };
        let size = Size { columns: 80, rows: 25 };
        let (console, _) = Console::model(ends, size, Arc::clone(&exit_event));
        let (host, sockets) = Host::new();
        let models = [
            Rng::model().expect("an entropy device"),
            disk(),
            Net::model(Arc::new(link), mac, Datapath::Vmm, None).expect("a network device"),
            console,
            sockets,
        ];
        for model in models {
            lanes.extend(attach(model, &memory, &router, &root));
        }
        add_stores(&root, &memory, &router);

        let ioapic = Arc::new(Ioapic::new(router.clone(), Arc::new(NoRoutes)));
        let line = Line::Ioapic(Arc::clone(&ioapic), layout::COM1_GSI);
        let serial = Port::new(&SerialTarget::Off, line, Arc::clone(&exit_event)).expect("a serial port");
        let buses = buses(&root, Some(&PCI_MMIO64), &serial, &exit_event, Some(&ioapic), Some(&(0xf4..0xf5)));
        let buses = buses.expect("the buses");
        let lanes = Mutex::new(lanes);
        Self { buses, memory, root, ioapic, router, lanes, peer, host, _console: (keys, screen) }
    }

    /// Runs each lane once.
    pub(super) fn serve(&self) {
        let mut lanes = self.lanes.lock().expect("no lane has panicked");
        for lane in lanes.iter_mut() {
            let turn = lane.turn(Some(Duration::ZERO)).expect("epoll_wait");
            assert!(turn != Turn::Ended, "a lane has ended while the device is on the bus");
        }
        self.router.pump();
        self.router.take_delivered();
    }
}

/// A disk of 64 KiB.
fn disk() -> Model {
    let image = super::file(&[0x5a; 64 << 10]);
    let path = PathBuf::from(format!("/proc/self/fd/{}", image.as_raw_fd()));
    let image = DiskImage::open(&path, ImageAccess::ReadWrite).expect("an image");
    Disk::by_caller(image, "fuzzed".to_owned()).expect("an eventfd")
}

fn attach(
    model: Model,
    memory: &GuestMemoryMmap,
    router: &Arc<FakeRouter>,
    root: &Arc<Root>,
) -> Vec<LaneLoop> {
    let Model { device, lanes } = model;
    let layout = virtio_layout::msix(device.queues().len()).expect("a layout");
    let interrupts = Interrupts::new(device.interrupt_source(), layout, router.clone()).expect("interrupts");
    let transport = Transport::new(device, lanes.len(), memory.clone(), interrupts).expect("a transport");
    let lanes = lanes.into_iter().enumerate();
    let lanes =
        lanes.map(|(number, lane)| LaneLoop::new(Arc::clone(&transport), number, lane).expect("a lane"));
    let lanes = lanes.collect();
    let function = PciFunction::new(transport, Doorbells::by_access(), Workers::default(), root);
    root.add(Arc::new(function.expect("a BAR"))).expect("room on the bus");
    lanes
}

/// Both devices with an interrupt message store.
fn add_stores(root: &Arc<Root>, memory: &GuestMemoryMmap, router: &Arc<FakeRouter>) {
    use ims::interrupts::{InterruptConfig, Interrupts, MsixPresence};
    let slots = SlotCount::new(16).expect("a number of slots");
    let config = InterruptConfig { slots, memory_slots: Some(slots), msix: MsixPresence::Present };
    let interrupts = Interrupts::new(config, router.clone()).expect("interrupts");
    let queues = ims::Device::new(ims::queues::Queues::new(memory.clone()), interrupts);
    let function = ims::function::PciFunction::new(0x10f1, Arc::new(queues), root).expect("BARs");
    root.add(Arc::new(function)).expect("room on the bus");
    let config = InterruptConfig { slots, memory_slots: None, msix: MsixPresence::Absent };
    let interrupts = Interrupts::new(config, router.clone()).expect("interrupts");
    let timer = ims::timer::Timer::new().expect("a timer");
    let function =
        ims::function::PciFunction::new(0x10f0, Arc::new(ims::Device::new(timer, interrupts)), root);
    root.add(Arc::new(function.expect("BARs"))).expect("room on the bus");
}
