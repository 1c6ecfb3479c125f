//! This crate, driven as a Linux guest drives it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kvm_ioctls::{VcpuFd, VmFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use vm_msi::MsixFunction;
use vm_msi::Vector;
use vm_msi::apic::DestinationIds;
use vm_msi::backend::{Backend, BackendError, Capabilities, EventfdOwner, Growth, Programming};
use vm_msi::kvm::{Irqchip, KvmRouter};
use vm_msi::msix::{Bar, Layout, TableSize};
use vmm_sys_util::eventfd::EventFd;

use crate::floor;
use crate::measure::{Result, Sample, time};
use crate::message::{APICS, message};

/// A device whose vectors cost nothing: what is measured is not the device's. One that is to ring keeps a duplicate
/// of each eventfd.
#[derive(Debug)]
pub(crate) struct Device(Option<Bells>);

type Bells = Arc<Mutex<BTreeMap<Vector, EventFd>>>;

impl Backend for Device {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            vectors: 2048,
            growth: Growth::Dynamic,
            independent: true,
            multi_message: false,
            ims: true,
            cookies: false,
        }
    }

    fn open(&mut self, _: u32) -> std::result::Result<(), BackendError> {
        Ok(())
    }

    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> std::result::Result<(), BackendError> {
        let Self(Some(bells)) = self else { return Ok(()) };
        let bell = eventfd.try_clone().map_err(|source| BackendError::Bind { vector, source })?;
        bells.lock().unwrap_or_else(PoisonError::into_inner).insert(vector, bell);
        Ok(())
    }

    fn unbind(&mut self, _: Vector) -> std::result::Result<(), BackendError> {
        Ok(())
    }

    fn close(&mut self) -> std::result::Result<(), BackendError> {
        Ok(())
    }

    fn eventfd_owner_after_close(&self) -> EventfdOwner {
        if self.0.is_some() { EventfdOwner::Others } else { EventfdOwner::Domain }
    }

    fn pending(&mut self, _: u32) -> u64 {
        0
    }

    /// As of a device whose table is mapped, and has what the host wrote.
    fn vector_programming(&mut self, _: Vector) -> Programming {
        Programming::Kept
    }
}

/// When messages are published.
#[derive(Clone, Copy)]
pub(crate) enum Ahead {
    /// All of them, before the guest starts.
    AtStart,
    /// A block when the first of it is seen.
    InBlocks,
}

pub(crate) type OurFunction = MsixFunction;

/// A function of 2048 vectors in a VM of 11 vCPUs.
pub(crate) struct Ours {
    pub(crate) function: OurFunction,
    pub(crate) router: Arc<KvmRouter>,
    bells: Bells,
    /// Takes what userspace signals.
    _apic: Option<VcpuFd>,
}

/// A table of so many entries, and its pending bits behind it.
pub(crate) fn layout(vectors: usize) -> Result<Layout> {
    let bar = Bar::new(0).ok_or("there is a BAR 0")?;
    let size = TableSize::new(vectors.try_into()?).ok_or("1 to 2048 vectors")?;
    Ok(Layout::new(size, (bar, 0), (bar, 0x8000))?)
}

impl Ours {
    pub(crate) fn new(ahead: Ahead) -> Result<Self> {
        Self::with_device(ahead, (floor::vm()?, None), |_| Device(None))
    }

    /// One whose vectors can be rung, in a VM with one local APIC.
    pub(crate) fn ringing(ahead: Ahead) -> Result<Self> {
        let (vm, apic) = floor::vm_with_apic()?;
        Self::with_device(ahead, (vm, Some(apic)), |bells| Device(Some(bells.clone())))
    }

    fn with_device(
        ahead: Ahead,
        (vm, apic): (VmFd, Option<VcpuFd>),
        device: impl FnOnce(&Bells) -> Device,
    ) -> Result<Self> {
        let router =
            Arc::new(KvmRouter::new(Arc::new(vm), Irqchip::Kernel, APICS.into(), DestinationIds::Bits8)?);
        if let Ahead::AtStart = ahead {
            router.publish_destinations(0..APICS.into())?;
        }
        let bells = Bells::default();
        let function = MsixFunction::new(layout(2048)?, router.clone(), device(&bells));
        Ok(Self { function, router, bells, _apic: apic })
    }

    /// A function of another device of the VM.
    pub(crate) fn another(&self, vectors: usize) -> Result<OurFunction> {
        Ok(MsixFunction::new(layout(vectors)?, self.router.clone(), Device(None)))
    }

    /// The device raises a vector.
    pub(crate) fn ring(&self, vector: usize) {
        let bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = bells.get(&Vector(vector as u32)).map(|bell| bell.write(1));
    }

    /// What `pci_alloc_irq_vectors` and then `request_irq` do, entry by entry.
    pub(crate) fn enable_one_by_one(&mut self, n: usize) -> Sample {
        self.counting_commits(|ours| {
            ours.allocate(n);
            (0..n).for_each(|index| ours.request(index));
        })
    }

    /// The same, until nothing is left to be done for any vector.
    pub(crate) fn enable_one_by_one_settled(&mut self, n: usize) -> Sample {
        self.counting_commits(|ours| {
            ours.allocate(n);
            (0..n).for_each(|index| ours.request(index));
            while ours.function.failed_steps() > 0 {
                ours.function.retry();
            }
        })
    }

    /// The same, with a thread that requests the host vectors: until the guest's writes are done, and until the thread is.
    pub(crate) fn enable_one_by_one_growing(&mut self, n: usize) -> Result<[Sample; 2]> {
        let ours = &*self;
        let growth = ours.function.deferred_bind_fd()?;
        thread::scope(|scope| {
            let growing = scope.spawn(|| {
                while ours.router.counters().in_use < n {
                    poll(&mut [PollFd::new(&growth, PollFlags::IN)], None)?;
                    ours.function.bind_deferred();
                }
                Ok(Instant::now())
            });
            // A VMM's thread waits for its guest, and not the other way round.
            thread::sleep(Duration::from_millis(1));
            let start = Instant::now();
            let written = ours.counting_commits(|ours| {
                ours.allocate(n);
                (0..n).for_each(|index| ours.request(index));
            });
            let live = growing.join().map_err(|_| "the thread has failed")?.map_err(|errno: Errno| errno)?;
            Ok([written, Sample { time: live.duration_since(start), ..written }])
        })
    }

    /// The same with a pause after each vector, which does not count.
    pub(crate) fn enable_paced(&mut self, n: usize, pause: Duration) -> Sample {
        let mut sample = self.counting_commits(|ours| ours.allocate(n));
        for index in 0..n {
            let Sample { time, commits } = self.counting_commits(|ours| ours.request(index));
            sample = Sample { time: sample.time + time, commits: sample.commits + commits };
            floor::wait(pause);
        }
        sample
    }

    /// `pci_alloc_irq_vectors`: no entry is unmasked yet.
    fn allocate(&self, n: usize) {
        self.function.write_config(2, &0xc000u16.to_le_bytes());
        (0..n).for_each(|index| self.write_message(index, (0xfee0_0000, 0xef)));
        (0..n).for_each(|index| self.write_control(index, 1));
        self.function.write_config(2, &0x8000u16.to_le_bytes());
    }

    /// `request_irq`.
    fn request(&self, index: usize) {
        self.write_message(index, message(index));
        self.write_message(index, message(index));
        self.write_control(index, 0);
    }

    /// The same, with every entry unmasked under the function mask.
    pub(crate) fn enable_at_once(&mut self, n: usize) -> Sample {
        self.counting_commits(|ours| {
            ours.function.write_config(2, &0xc000u16.to_le_bytes());
            for index in 0..n {
                ours.write_message(index, message(index));
                ours.write_control(index, 0);
            }
            ours.function.write_config(2, &0x8000u16.to_le_bytes());
        })
    }

    /// Function Mask set and cleared.
    pub(crate) fn mask_function(&self) {
        [0xc000u16, 0x8000].iter().for_each(|control| self.function.write_config(2, &control.to_le_bytes()));
    }

    /// One live vector masked and unmasked.
    pub(crate) fn mask_unmask(&mut self, n: usize) -> Sample {
        self.counting_commits(|ours| {
            ours.write_control(n / 2, 1);
            ours.write_control(n / 2, 0);
        })
    }

    /// One live vector masked, moved to the message of another and unmasked, and the next time back.
    pub(crate) fn retarget(&mut self, n: usize) -> Sample {
        let mut data = [0; 4];
        self.function.read_table(n as u64 / 2 * 16 + 8, &mut data);
        let index = if u32::from_le_bytes(data) == message(n / 2).1 { n / 2 + 1 } else { n / 2 };
        self.counting_commits(|ours| ours.move_to(n / 2, message(index)))
    }

    /// What an affinity change does to an entry.
    pub(crate) fn move_to(&self, index: usize, message: (u32, u32)) {
        self.write_control(index, 1);
        self.write_message(index, message);
        self.write_control(index, 0);
    }

    pub(crate) fn counting_commits(&self, work: impl FnOnce(&Self)) -> Sample {
        let before = self.router.counters().commits;
        let sample = time(|| work(self));
        Sample { commits: self.router.counters().commits - before, ..sample }
    }

    pub(crate) fn write_message(&self, index: usize, (address, data): (u32, u32)) {
        let entry = index as u64 * 16;
        self.function.write_table(entry, &address.to_le_bytes());
        self.function.write_table(entry + 4, &[0; 4]);
        self.function.write_table(entry + 8, &data.to_le_bytes());
        self.function.read_table(entry + 8, &mut [0; 4]);
    }

    pub(crate) fn write_control(&self, index: usize, control: u32) {
        self.function.write_table(index as u64 * 16 + 12, &control.to_le_bytes());
    }
}
