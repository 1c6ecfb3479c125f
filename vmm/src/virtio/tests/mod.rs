//! A virtio function on the bus as its driver sees it, with RAM and a router that records messages.

mod capabilities;
mod configuration;
mod console;
mod disk;
mod disk_model;
mod driver;
mod entropy;
mod hostile;
mod in_flight;
mod net;
mod notifications;
mod queues;
mod vsock;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_device::bus::MmioAddress;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vm_msi::testing::{Failures, FakeRouter};
use vm_msi::{MsiMessage, SoftwareMsix};

use super::device::{Device, Identity, LaneModel, Model};
use super::device_config::DeviceConfig;
use super::handler::Handler;
use super::interrupts::Interrupts;
use super::lane::Lane;
use super::lane_loop::{LaneLoop, Turn};
use super::pci::{Doorbells, PciFunction, layout};
use super::queue::{QueueIndex, QueueSize};
use super::registers::{COMMON_FEATURES, DRIVER_OK, FEATURES_OK, NEEDS_RESET};
use super::rng::Rng;
use super::transport::Transport;
use super::worker::Workers;
use crate::pci::driver::{Driver, little_endian};
use crate::pci::windows::tests::windows;
use crate::pci::{Function, Root};

const RAM: u64 = 1 << 20;
/// The driver's rings and buffers.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFERS: u64 = 0x1_0000;
const ENTRIES: u16 = 64;

/// Registers of the common configuration, at these offsets (virtio 1.2 §4.1.4.3).
mod at {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(super) const DEVICE_FEATURE: u64 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(super) const DRIVER_FEATURE: u64 = 0x0c;
    pub(super) const CONFIG_MSIX_VECTOR: u64 = 0x10;
    pub(super) const NUM_QUEUES: u64 = 0x12;
    pub(super) const DEVICE_STATUS: u64 = 0x14;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub(super) const QUEUE_DESC: u64 = 0x20;
    pub(super) const QUEUE_DRIVER: u64 = 0x28;
    pub(super) const QUEUE_DEVICE: u64 = 0x30;
    pub(super) const QUEUE_RESET: u64 = 0x3a;
    pub(super) const ISR: u64 = 0x1000;
    pub(super) const DEVICE_CONFIG: u64 = 0x2000;
    pub(super) const NOTIFY: u64 = 0x3000;
    pub(super) const MSIX_TABLE: u64 = 0x4000;
}

/// A function on a bus, and its driver.
struct Machine {
    root: Arc<Root>,
    transport: Arc<Transport>,
    /// The lanes, which [`Machine::settle`] runs instead of threads.
    lanes: RefCell<Vec<LaneLoop>>,
    router: Arc<FakeRouter>,
    failures: Failures,
    memory: GuestMemoryMmap,
    bar: u64,
    /// Number of requests that the driver has made available.
    available: u16,
}

impl Machine {
    /// The entropy device with a decoding BAR, otherwise at power-on.
    fn new() -> Self {
        Self::of(Rng::model().unwrap())
    }

    fn of(model: Model) -> Self {
        let Model { device, lanes } = model;
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM as usize)]).unwrap();
        let failures = Failures::default();
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let layout = layout::msix(device.queues().len()).unwrap();
        let interrupts = Interrupts::new(device.interrupt_source(), layout, router.clone()).unwrap();
        let transport = Transport::new(device, lanes.len(), memory.clone(), interrupts).unwrap();
        let lanes = lanes.into_iter().enumerate();
        let lanes = lanes.map(|(number, lane)| LaneLoop::new(Arc::clone(&transport), number, lane).unwrap());
        let lanes = RefCell::new(lanes.collect());
        let root = Root::new(windows());
        let function =
            PciFunction::new(Arc::clone(&transport), Doorbells::by_access(), Workers::default(), &root);
        let function: Arc<dyn Function> = Arc::new(function.unwrap());
        root.add(function).unwrap();
        let mut machine = Self { root, transport, lanes, router, failures, memory, bar: 0, available: 0 };
        machine.bar = machine.config_read::<4>(0x10).into();
        machine.config_write(4, &[6, 0]);
        machine
    }

    /// An initialised driver with a vector for each event.
    fn driven() -> Self {
        let machine = Self::new();
        machine.enable_msix();
        machine.drive(COMMON_FEATURES);
        machine
    }

    fn msix_function(&self) -> &SoftwareMsix {
        match self.transport.interrupts() {
            Interrupts::Software(msix) => msix,
            Interrupts::Eventfds(..) => panic!("the device has eventfds"),
        }
    }

    /// Resets the device, and waits until it is reset.
    fn reset(&self) {
        self.write(at::DEVICE_STATUS, &[0]);
        self.settle();
        assert_eq!(self.status(), 0);
    }

    /// Initialises the device from reset to DRIVER_OK (virtio 1.2 §3.1.1).
    fn drive(&self, features: u64) {
        self.reset();
        self.write(at::DEVICE_STATUS, &[1]);
        self.write(at::DEVICE_STATUS, &[3]);
        self.take(features);
        self.write(at::DEVICE_STATUS, &[3 | FEATURES_OK]);
        assert_eq!(self.status(), 3 | FEATURES_OK);
        self.write16(at::CONFIG_MSIX_VECTOR, 0);
        self.set_up_queue();
        self.write16(at::QUEUE_ENABLE, 1);
        self.write(at::DEVICE_STATUS, &[3 | FEATURES_OK | DRIVER_OK]);
        self.settle();
    }

    fn take(&self, features: u64) {
        for half in 0..2u32 {
            self.write(at::DRIVER_FEATURE_SELECT, &half.to_le_bytes());
            self.write(at::DRIVER_FEATURE, &((features >> (32 * half)) as u32).to_le_bytes());
        }
    }

    fn set_up_queue(&self) {
        self.write16(at::QUEUE_SELECT, 0);
        self.write16(at::QUEUE_MSIX_VECTOR, 1);
        for (register, area) in
            [(at::QUEUE_DESC, DESCRIPTORS), (at::QUEUE_DRIVER, AVAILABLE), (at::QUEUE_DEVICE, USED)]
        {
            self.write(register, &(area as u32).to_le_bytes());
            self.write(register + 4, &((area >> 32) as u32).to_le_bytes());
        }
    }

    fn enable_msix(&self) {
        self.config_write(self.msix() + 2, &0x8000u16.to_le_bytes());
        for vector in 0..self.transport.interrupts().table_size() as u8 {
            let entry = at::MSIX_TABLE + u64::from(vector) * 16;
            self.write(entry, &0xfee0_0000u64.to_le_bytes());
            self.write(entry + 8, &message(vector).data.to_le_bytes());
            self.write(entry + 12, &0u32.to_le_bytes());
        }
    }

    /// Writes descriptors from index 0 on: address, length, flags, next.
    fn describe(&self, descriptors: &[(u64, u32, u32, u16)]) {
        for (index, (address, len, flags, next)) in (0..).zip(descriptors) {
            self.describe_at(DESCRIPTORS, index, *address, *len, *flags as u16, *next);
        }
    }

    fn describe_at(&self, table: u64, index: u64, address: u64, len: u32, flags: u16, next: u16) {
        let bytes =
            [&address.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()];
        self.memory.write_slice(&bytes.concat(), GuestAddress(table + 16 * index)).unwrap();
    }

    /// Makes the chain that starts at this descriptor available.
    fn offer(&mut self, head: u16) {
        let entry = AVAILABLE + 4 + 2 * u64::from(self.available % ENTRIES);
        self.memory.write_obj(head, GuestAddress(entry)).unwrap();
        self.available = self.available.wrapping_add(1);
        self.memory.write_obj(self.available, GuestAddress(AVAILABLE + 2)).unwrap();
    }

    /// Offers one writable buffer, and serves the queue.
    fn request(&mut self, address: u64, len: u32) {
        self.describe(&[(address, len, VRING_DESC_F_WRITE, 0)]);
        self.offer(0);
        self.serve();
    }

    /// Rings the doorbell and does the lane's part.
    fn serve(&self) {
        self.write16(at::NOTIFY, 0);
        self.settle();
    }

    /// Runs the lanes until none has anything to do.
    fn settle(&self) {
        while self.turn() == Turn::Served {}
    }

    /// Runs each lane once.
    fn turn(&self) -> Turn {
        self.turn_within(Some(Duration::ZERO))
    }

    /// Runs each lane once, as its thread does: without an event, it waits.
    fn wait(&self) -> Turn {
        self.turn_within(None)
    }

    fn turn_within(&self, timeout: Option<Duration>) -> Turn {
        let mut lanes = self.lanes.borrow_mut();
        let turns: Vec<_> = lanes.iter_mut().map(|lane| lane.turn(timeout).unwrap()).collect();
        if turns.contains(&Turn::Served) { Turn::Served } else { Turn::Idle }
    }

    /// Whether the doorbell was rung. Clears it.
    fn is_rung(&self) -> bool {
        self.transport.doorbells()[0].read().is_ok()
    }

    /// The used ring: its index, and the last entry's head and length.
    fn used(&self) -> (u16, u32, u32) {
        let count: u16 = self.memory.read_obj(GuestAddress(USED + 2)).unwrap();
        let last = USED + 4 + 8 * u64::from(count.wrapping_sub(1) % ENTRIES);
        let word = |at| self.memory.read_obj(GuestAddress(at)).unwrap();
        (count, word(last), word(last + 4))
    }

    fn status(&self) -> u8 {
        self.read::<1>(at::DEVICE_STATUS) as u8
    }

    fn read<const N: usize>(&self, offset: u64) -> u64 {
        let mut data = [0; N];
        self.root.mmio().mmio_read(MmioAddress(self.bar), offset, &mut data);
        little_endian(&data)
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.root.mmio().mmio_write(MmioAddress(self.bar), offset, data);
    }

    fn write16(&self, offset: u64, value: u16) {
        self.write(offset, &value.to_le_bytes());
    }

    fn msix(&self) -> u64 {
        self.capability(0x11).unwrap()
    }

    /// The vendor-specific capability of this type.
    fn structure(&self, cfg_type: u32) -> Option<u64> {
        let mut offsets = self.capabilities().into_iter().filter(|(_, id)| *id == 9).map(|(at, _)| at);
        offsets.find(|at| self.config_read::<1>(at + 3) == cfg_type)
    }
}

impl Driver for Machine {
    fn root(&self) -> &Arc<Root> {
        &self.root
    }
}

/// The message of a vector after [`Machine::enable_msix`].
fn message(vector: u8) -> MsiMessage {
    MsiMessage { address: 0xfee0_0000, data: 0x40 + u32::from(vector) }
}

/// A device with two queues, each on a lane, and a configuration. It answers every request with 7 bytes, or 8 for the
/// second queue.
struct Second(Arc<DeviceConfig>);

impl Second {
    fn model() -> Model {
        let lane = |queue| LaneModel {
            queues: vec![QueueIndex(queue)],
            handler: Box::new(Answers(7 + u32::from(queue))),
        };
        let config = Arc::new(DeviceConfig::new(vec![1, 2, 3, 4, 5], 0..0));
        Model { device: Arc::new(Self(config)), lanes: vec![lane(0), lane(1)] }
    }
}

impl Device for Second {
    fn identity(&self) -> Identity {
        Identity { id: 2, name: "second", class: 0x01_8000, label: None }
    }

    fn features(&self) -> u64 {
        1 << 6
    }

    fn queues(&self) -> &[QueueSize] {
        const QUEUES: [QueueSize; 2] = [QueueSize::two_to_the(3), QueueSize::two_to_the(8)];
        &QUEUES
    }

    fn config(&self) -> Option<&Arc<DeviceConfig>> {
        Some(&self.0)
    }

    fn report(&self) -> Map<String, Value> {
        Map::new()
    }
}

/// Answers every request with this number of bytes.
struct Answers(u32);

impl Handler for Answers {
    fn queue_ready(&mut self, lane: &mut Lane, queue: QueueIndex) {
        let queue = lane.queue(queue).unwrap();
        while let Some(chain) = queue.pop() {
            queue.complete(chain, self.0);
        }
    }
}

const WRITE: u32 = VRING_DESC_F_WRITE;
const NEXT: u32 = VRING_DESC_F_NEXT;
