//! A guest without an operating system, on real KVM: the harness of these tests.
//!
//! Its program (`code.rs`) performs the accesses that a test asks for and counts the interrupts that come. They
//! reach a [`Card`], a PCI function whose MSI-X is the crate's and whose device is the test's.

mod card;
mod code;
mod device;
mod event_thread;
mod guest;
mod layout;
mod memory;
mod messages;
mod patience;
mod queue;
mod slots;
mod vcpu;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_bindings::{CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap};
use kvm_ioctls::{Kvm, VmFd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vm_device::device_manager::IoManager;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vm_msi::apic::DestinationIds;
use vm_msi::ims::{ControlFormat, SlotArrayLayout};
use vm_msi::kvm::{Irqchip, KvmRouter};
use vm_msi::msi::MsiLayout;
use vm_msi::{Backend, Router, VmBudget};

/// Both ways in which the kernel emulates interrupt controllers.
pub(crate) const IRQCHIPS: [Irqchip; 2] = [Irqchip::Kernel, Irqchip::Split];

pub(crate) use card::{Card, ENABLE, FUNCTION_MASK, table_layout};
pub(crate) use device::{Device, DeviceBackend};
pub(crate) use event_thread::EventThread;
pub(crate) use guest::{Guest, Operation, eventually, fixed};
pub(crate) use messages::MsiCard;
pub(crate) use queue::Queue;
pub(crate) use slots::{MASKED, PENDING, Slots, slot_layout};

/// Opens /dev/kvm. These tests are about the kernel's side of interrupts: without it they have nothing to say,
/// and fail.
pub(crate) fn kvm() -> Kvm {
    Kvm::new().unwrap_or_else(|error| {
        panic!(
            "/dev/kvm does not open ({error}), and this test is about real KVM. Run it as a user who may open \
             /dev/kvm, or in the lab host, which has KVM on any machine: `make test` does that."
        )
    })
}

/// Attaches a card to the bus.
type Attach = Box<dyn Fn(&mut IoManager)>;

/// A VM with memory, interrupt controllers and a router, not running yet.
pub(crate) struct Machine {
    vm: Arc<VmFd>,
    memory: GuestMemoryMmap,
    cpuid: CpuId,
    cpus: u8,
    router: Arc<KvmRouter>,
    budget: Arc<VmBudget>,
    cards: Vec<Attach>,
}

impl Machine {
    /// A VM of `cpus` CPUs, whose APIC IDs count from 0.
    pub(crate) fn new(irqchip: Irqchip, cpus: u8) -> Self {
        assert!(cpus <= layout::MAX_CPUS);
        raise_open_files_limit();
        let kvm = kvm();
        let vm = kvm.create_vm().unwrap();
        // Just below the local APICs' hole's end, where Intel processors want three pages and no memory is.
        vm.set_tss_address(0xfffb_d000).unwrap();
        match irqchip {
            Irqchip::Kernel => vm.create_irq_chip().unwrap(),
            Irqchip::Split => vm
                .enable_cap(&kvm_enable_cap {
                    cap: KVM_CAP_SPLIT_IRQCHIP,
                    args: [24, 0, 0, 0],
                    ..Default::default()
                })
                .unwrap(),
        }
        let memory = memory::image();
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: layout::MEMORY_BYTES as u64,
            userspace_addr: memory.get_host_address(GuestAddress(0)).unwrap().addr() as u64,
        };
        // SAFETY: the memory is mapped for as long as the VM lives: whoever runs its CPUs has a clone of both.
        unsafe { vm.set_user_memory_region(region) }.unwrap();
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
        let vm = Arc::new(vm);
        let router =
            Arc::new(KvmRouter::new(vm.clone(), irqchip, cpus.into(), DestinationIds::Bits8).unwrap());
        Self { vm, memory, cpuid, cpus, router, budget: VmBudget::new(None), cards: Vec::new() }
    }

    /// A running VM of `cpus` CPUs with one function of `vectors` vectors.
    pub(crate) fn with_card(irqchip: Irqchip, cpus: u8, vectors: u16) -> (Guest, Arc<Card>) {
        let mut machine = Self::new(irqchip, cpus);
        let card = machine.plug(vectors);
        (machine.start(), card)
    }

    /// The VM itself, for what a test does behind the router's back.
    pub(crate) fn vm(&self) -> Arc<VmFd> {
        self.vm.clone()
    }

    /// The VM's router.
    pub(crate) fn router(&self) -> Arc<KvmRouter> {
        self.router.clone()
    }

    /// The VM's budget, which has no limit at first.
    pub(crate) fn budget(&self) -> Arc<VmBudget> {
        self.budget.clone()
    }

    /// Plugs a function of so many vectors in.
    pub(crate) fn plug(&mut self, vectors: u16) -> Arc<Card> {
        self.plug_behind(self.router.clone(), vectors)
    }

    /// The same, behind a router that stands before the VM's.
    pub(crate) fn plug_behind(&mut self, router: Arc<dyn Router>, vectors: u16) -> Arc<Card> {
        let device = Device::new(vectors.into());
        let backend = DeviceBackend(device.clone());
        self.insert(router, vectors, &device, backend)
    }

    /// Plugs a function of so many vectors in, which are some of a device's.
    pub(crate) fn plug_part(
        &mut self,
        vectors: u16,
        device: &Arc<Device>,
        part: impl Backend + 'static,
    ) -> Arc<Card> {
        self.insert(self.router.clone(), vectors, device, part)
    }

    /// Plugs an array of so many IMS slots in.
    pub(crate) fn plug_slots(&mut self, slots: u32) -> Arc<Slots> {
        let device = Device::new(slots);
        let backend = DeviceBackend(device.clone());
        self.plug_slots_of(slots, &device, backend)
    }

    /// Plugs an array of IMS slots in, which are some of a device's vectors.
    pub(crate) fn plug_slots_of(
        &mut self,
        slots: u32,
        device: &Arc<Device>,
        part: impl Backend + 'static,
    ) -> Arc<Slots> {
        self.insert_slots(slot_layout(slots), device, Box::new(part))
    }

    /// Plugs an array of so many IMS slots in, whose control DWORDs have this format.
    pub(crate) fn plug_slots_with(&mut self, slots: u32, control: ControlFormat) -> Arc<Slots> {
        let device = Device::new(slots);
        let layout = SlotArrayLayout { control, ..slot_layout(slots) };
        self.insert_slots(layout, &device, Box::new(DeviceBackend(device.clone())))
    }

    fn insert_slots(
        &mut self,
        layout: SlotArrayLayout,
        device: &Arc<Device>,
        part: Box<dyn Backend>,
    ) -> Arc<Slots> {
        let (place, router) = (self.cards.len(), self.router.clone());
        let slots = Arc::new(Slots::new(place, layout, router, device.clone(), part));
        let plugged = slots.clone();
        self.cards.push(Box::new(move |bus| plugged.attach(bus)));
        slots
    }

    /// Plugs a function with MSI of this layout in.
    pub(crate) fn plug_messages(&mut self, layout: MsiLayout) -> Arc<MsiCard> {
        let card = Arc::new(MsiCard::new(self.cards.len(), layout, self.router.clone()));
        let plugged = card.clone();
        self.cards.push(Box::new(move |bus| plugged.attach(bus)));
        card
    }

    /// Plugs an IMS of so many slots in memory in.
    pub(crate) fn plug_queue(&mut self, slots: u32) -> Arc<Queue> {
        let device = Device::new(slots);
        let backend = Box::new(DeviceBackend(device.clone()));
        let (place, router, memory) = (self.cards.len(), self.router.clone(), self.memory.clone());
        let queue = Arc::new(Queue::new(place, slots, router, memory, device, backend));
        let plugged = queue.clone();
        self.cards.push(Box::new(move |bus| plugged.attach(bus)));
        queue
    }

    fn insert(
        &mut self,
        router: Arc<dyn Router>,
        vectors: u16,
        device: &Arc<Device>,
        backend: impl Backend + 'static,
    ) -> Arc<Card> {
        let (place, budget) = (self.cards.len(), &self.budget);
        let card = Arc::new(Card::new(place, vectors, router, budget, device.clone(), Box::new(backend)));
        let plugged = card.clone();
        self.cards.push(Box::new(move |bus| plugged.attach(bus)));
        card
    }

    /// Starts the CPUs.
    pub(crate) fn start(self) -> Guest {
        let mut bus = IoManager::new();
        self.cards.iter().for_each(|attach| attach(&mut bus));
        Guest::start(&self, bus)
    }
}

/// Open files that one test of thousands of vectors needs: two a vector, the domain's and the device's.
const OPEN_FILES: u64 = 20_000;

/// The limit on open files goes as high as it may, and where that is too little, as high as root can set it.
fn raise_open_files_limit() {
    let maximum = match getrlimit(Resource::Nofile).maximum {
        Some(maximum) if maximum < OPEN_FILES => Some(OPEN_FILES),
        enough => enough,
    };
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap_or_else(|error| {
        panic!(
            "these tests need {OPEN_FILES} open files, and the limit cannot be raised ({error}): ulimit -Hn"
        )
    });
}

/// The turn of a test of thousands of vectors: one has it at a time, so that they do not use up the open files.
pub(crate) fn turn_of_thousands() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
