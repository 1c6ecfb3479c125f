//! Queues whose slots a host device fires: its host vectors, its Bus Master Enable, and the limits of a guest's
//! access to it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use rustix::fs::MemfdFlags;
use vm_memory::GuestMemoryMmap;
use vm_msi::backend::{Capabilities, Growth};
use vm_msi::ims::SlotCount;
use vm_msi::pool::{HostVector, ParentError};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{DeviceBudget, MsiMessage, Vector};

use super::super::interrupts::{Interrupts, MsixPresence, bar_slots};
use super::super::queues::Queues;
use super::{Driver, MASK, Machine, PENDING, RING, message};
use crate::mediated::doorbell::{Doorbell, DoorbellError};
use crate::mediated::ivshmem::Ivshmem;
use crate::mediated::physical::{HostHandle, MediatedError};
use crate::mediated::{MediatedSlots, PhysicalDevice};
use crate::vfio::HostAddress;
use crate::vfio::guest_config::HostReset;
use crate::vfio::region::Region;

/// The PCI Express capability, and Initiate Function Level Reset in its device control.
const EXPRESS: u8 = 0x10;
const FLR: [u8; 2] = [0, 0x80];
const CONTROL: u64 = 0x014;
const BUS_MASTER: u16 = 1 << 2;

fn file(bytes: u64) -> Arc<File> {
    let file = File::from(rustix::fs::memfd_create("device", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(bytes).unwrap();
    Arc::new(file)
}

/// A host device as seen from outside.
#[derive(Clone)]
struct Host {
    vectors: FakeBackend,
    config: Arc<File>,
    rung: Arc<Mutex<Vec<u32>>>,
}

impl Host {
    fn command(&self) -> u16 {
        let mut command = [0; 2];
        self.config.read_exact_at(&mut command, 4).unwrap();
        u16::from_le_bytes(command)
    }

    fn rung(&self) -> Vec<u32> {
        std::mem::take(&mut *self.rung.lock().unwrap())
    }

    /// Number of bound vectors, and whether MSI-X is enabled.
    fn in_use(&self) -> (usize, bool) {
        self.vectors.in_use()
    }
}

impl Doorbell for Host {
    fn name(&self) -> &'static str {
        "ivshmem-doorbell"
    }

    fn ring(&self, HostVector(vector): HostVector) {
        self.rung.lock().unwrap().push(vector);
        // A signal without bus mastering is lost.
        if self.command() & BUS_MASTER != 0 {
            self.vectors.raise(Vector(vector));
        }
    }
}

/// A mediated device with eight vectors, and the host's side of it.
struct Mediated {
    host: Host,
    physical: Arc<PhysicalDevice>,
    budget: Arc<DeviceBudget>,
}

impl Mediated {
    fn new() -> Self {
        Self::try_new(Growth::Dynamic).unwrap()
    }

    fn try_new(growth: Growth) -> Result<Self, MediatedError> {
        let can = Capabilities { vectors: 8, growth, multi_message: false, ..Capabilities::UNLIMITED };
        let vectors = FakeBackend::with_capabilities(Failures::default(), can);
        let host = Host { vectors, config: file(4096), rung: Arc::default() };
        let budget = DeviceBudget::new(None);
        let bus = HostHandle {
            address: HostAddress::parse("02:00.0").unwrap(),
            config: Region::of_file(&host.config, 0, 4096),
            reset: HostReset::Unsupported,
            file: Arc::clone(&host.config),
            container: None,
        };
        let physical =
            PhysicalDevice::new(host.vectors.clone(), Box::new(host.clone()), Arc::clone(&budget), bus)?;
        Ok(Self { host, physical, budget })
    }

    /// A function of the device on a bus of its own.
    fn function(&self, slots: u32) -> Machine<Queues> {
        self.try_function(slots).unwrap()
    }

    fn try_function(&self, slots: u32) -> crate::error::Result<Machine<Queues>> {
        let failures = Failures::default();
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let layout = bar_slots(SlotCount::new(slots).unwrap()).unwrap();
        let slots = MediatedSlots::new(layout, router.clone(), Arc::clone(&self.physical))?;
        let interrupts =
            Interrupts::with_bar_slots(Box::new(slots), None, MsixPresence::Present, router.clone()).unwrap();
        Ok(Machine::with(0x10f1, Queues::new(GuestMemoryMmap::new()), interrupts, router, failures))
    }
}

impl Machine<Queues> {
    fn rings(&self, slot: u32) -> Vec<MsiMessage> {
        self.write(RING, slot);
        self.interrupts()
    }

    /// Slots and their host vectors, from the report.
    fn places(&self) -> Vec<(u64, u64)> {
        let report = self.device.report();
        let vectors = report["mediated_slots"]["domain"]["vectors"].as_array().unwrap();
        let place =
            |vector: &serde_json::Value| Some((vector["vector"].as_u64()?, vector["host_vector"].as_u64()?));
        vectors.iter().filter_map(place).collect()
    }
}

#[test]
fn a_driver_finds_the_same_device_and_slots_take_host_vectors_as_it_uses_them() {
    let mediated = Mediated::new();
    let machine = mediated.function(7);
    assert_eq!([0x000, 0x004, 0x008, 0x00c, 0x010].map(|at| machine.read(at)), [0x5153_4d49, 1, 7, 0, 7]);
    assert_eq!(machine.config_read::<4>(0), 0x10f1_1af4);
    assert_eq!(mediated.host.in_use(), (0, true), "on from the start, and nothing is requested");
    for (count, slot) in [4, 0, 6].into_iter().enumerate() {
        machine.set_up(slot, 0);
        assert_eq!(mediated.host.in_use(), (count + 1, true));
    }
    assert_eq!([4, 6, 0].map(|slot| machine.rings(slot)), [4, 6, 0].map(|slot| vec![message(slot)]));
    assert_eq!(mediated.host.rung(), [1, 3, 2], "the host's vectors, of which 0 is the mediator's");
    assert_eq!(machine.places(), [(0, 2), (4, 1), (6, 3)]);
    assert_eq!(machine.counters(), [3, 0, 0]);
}

#[test]
fn a_masked_slot_keeps_one_interrupt_whether_it_has_a_host_vector_or_not() {
    let mediated = Mediated::new();
    let machine = mediated.function(4);
    machine.set_up(2, MASK);
    for _ in 0..2 {
        assert_eq!((machine.rings(2), machine.control(2)), (vec![], MASK | PENDING));
    }
    assert!(mediated.host.rung().is_empty(), "it has none yet");
    machine.set_control(2, 0);
    assert_eq!((machine.interrupts(), machine.control(2)), (vec![message(2)], 0));
    machine.set_control(2, MASK);
    assert_eq!([machine.rings(2), machine.rings(2)], [vec![], vec![]]);
    assert_eq!((mediated.host.rung(), machine.control(2)), (vec![1, 1], MASK | PENDING));
    machine.set_control(2, 0);
    assert_eq!((machine.interrupts(), machine.control(2)), (vec![message(2)], 0));
}

#[test]
fn a_ring_of_a_free_slot_is_dropped_before_it_reaches_the_device() {
    let mediated = Mediated::new();
    let machine = mediated.function(4);
    machine.set_up(1, 0);
    machine.free(1);
    assert_eq!([1, 3].map(|slot| machine.rings(slot)), [vec![], vec![]]);
    assert_eq!((mediated.host.rung(), machine.counters()), (vec![], [2, 2, 0]));
    machine.set_up(1, 0);
    assert_eq!(machine.interrupts(), []);
    assert_eq!(machine.rings(1), [message(1)]);
}

#[test]
fn a_slot_beyond_the_budget_keeps_its_interrupt_until_another_one_goes() {
    let mediated = Mediated::new();
    let machine = mediated.function(3);
    mediated.budget.set_limit(Some(1));
    machine.set_up(0, 0);
    machine.set_up(2, 0);
    assert_eq!([0, 2].map(|slot| machine.rings(slot)), [vec![message(0)], vec![]]);
    assert_eq!(machine.control(2), PENDING);
    machine.free(0);
    machine.device.retry();
    assert_eq!((machine.interrupts(), machine.control(2)), (vec![message(2)], 0));
}

#[test]
fn the_device_is_bus_master_from_when_a_function_is_until_the_last_is_reset() {
    let mediated = Mediated::new();
    let bus_master = || mediated.host.command() & BUS_MASTER != 0;
    assert!(!bus_master());
    let first = mediated.function(3);
    assert!(bus_master());
    first.set_up(0, 0);
    // The guest's Bus Master Enable only makes interrupts pending. The host's stays set, so that none is lost.
    first.config_write(4, &[2, 0]);
    assert_eq!((bus_master(), first.rings(0)), (true, vec![]));
    first.config_write(4, &[6, 0]);
    assert_eq!(first.interrupts(), [message(0)]);
    let second = mediated.function(4);
    first.config_write(first.capability(EXPRESS).unwrap() + 8, &FLR);
    assert!(bus_master(), "the other one runs");
    second.config_write(second.capability(EXPRESS).unwrap() + 8, &FLR);
    assert!(!bus_master());
    assert_eq!(mediated.host.in_use(), (0, true));
}

#[test]
fn a_reset_releases_the_host_vectors_of_its_function_only() {
    let mediated = Mediated::new();
    let [first, second] = [3, 4].map(|slots| mediated.function(slots));
    for machine in [&first, &second] {
        (0..3).for_each(|slot| machine.set_up(slot, 0));
    }
    assert_eq!(mediated.host.in_use(), (6, true));
    first.set_up(1, MASK);
    assert_eq!(first.rings(1), []);
    first.write(CONTROL, 1);
    assert_eq!(mediated.host.in_use(), (3, true));
    assert_eq!((second.rings(2), mediated.host.rung().len()), (vec![message(2)], 2));
    (0..3).for_each(|slot| first.set_up(slot, 0));
    assert_eq!(first.interrupts(), [], "none of before");
    assert_eq!(first.rings(1), [message(1)]);
    first.root.release();
    assert_eq!((mediated.host.in_use(), second.rings(0)), ((3, true), vec![message(0)]));
}

#[test]
fn the_released_device_has_msix_and_bus_mastering_disabled() {
    let Mediated { host, physical, budget } = Mediated::new();
    let mediated = Mediated { host: host.clone(), physical, budget };
    let machine = mediated.function(7);
    (0..7).for_each(|slot| machine.set_up(slot, 0));
    machine.root.release();
    machine.root.release();
    assert_eq!((host.in_use(), host.command() & BUS_MASTER), ((0, true), 0));
    drop((machine, mediated));
    assert_eq!((host.in_use(), host.command() & BUS_MASTER), ((0, false), 0));
}

#[test]
fn its_report_is_as_the_schema_says() {
    let mediated = Mediated::new();
    let machine = mediated.function(3);
    machine.set_up(1, 0);
    let mut device = machine.device.report();
    device["place"] = "00:01.0".into();
    let budget = mediated.budget.report();
    let routes = serde_json::json!({ "capacity": 0, "published": 0, "in_use": 0, "commits": 0, "hits": 0,
                                     "evictions": 0, "destination_ids": "bits8" });
    let report = serde_json::json!({ "version": 2, "devices": [device], "budget": budget, "routes": routes });
    guest::report::check(&report).unwrap();
}

#[test]
fn more_slots_than_there_are_host_vectors_are_refused_before_there_is_a_function() {
    let mediated = Mediated::new();
    let text = mediated.try_function(8).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("02:00.0: 8 slots need a host vector each: the device has 8"), "{text}");
    let _four = mediated.function(4);
    let refused = mediated.physical.sub_device(4).map(|_| ()).unwrap_err();
    assert!(matches!(refused, MediatedError::TooManySlots { slots: 4, vectors: 8, reserved: 4 }));
    mediated.function(3);
}

#[test]
fn a_host_that_cannot_add_vectors_is_refused() {
    let refused = Mediated::try_new(Growth::Fixed).map(|_| ()).unwrap_err();
    assert!(matches!(refused, MediatedError::Parent(ParentError::CannotGrow)), "{refused}");
    assert_eq!(Mediated::try_new(Growth::Reserved).unwrap().host.in_use(), (0, true));
}

#[test]
fn an_ivshmem_rings_itself_by_its_own_number() {
    let file = file(256);
    file.write_all_at(&7u32.to_le_bytes(), 8).unwrap();
    let doorbell = || Ivshmem::new(Some(Region::of_file(&file, 0, 256)));
    doorbell().unwrap().ring(HostVector(0x123));
    let mut rung = [0; 4];
    file.read_exact_at(&mut rung, 12).unwrap();
    assert_eq!(u32::from_le_bytes(rung), 7 << 16 | 0x123);
    file.write_all_at(&u32::MAX.to_le_bytes(), 8).unwrap();
    assert_eq!(doorbell().map(|_| ()), Err(DoorbellError::NotConnected));
    assert_eq!(Ivshmem::new(None).map(|_| ()), Err(DoorbellError::NoBar { bar: 0 }));
}
