//! This crate, driven as a Linux guest drives it.

use std::error::Error;
use std::sync::Arc;

use vm_msi::MsixFunction;
use vm_msi::Vector;
use vm_msi::backend::{Backend, BackendError, Capabilities, Growth, Holders};
use vm_msi::kvm::{Irqchip, KvmRouter};
use vm_msi::msix::{Bar, Layout, TableSize};
use vmm_sys_util::eventfd::EventFd;

use crate::floor;
use crate::measure::{Sample, time};

/// APICs that the vectors are spread over, 200 vectors on each.
const APICS: u8 = 11;
const VECTORS_OF_AN_APIC: usize = 200;

/// A device whose vectors cost nothing: what is measured is not the device's.
#[derive(Debug)]
pub(crate) struct NoDevice;

impl Backend for NoDevice {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            vectors: 2048,
            growth: Growth::Dynamic,
            independent: true,
            multi_message: false,
            ims: true,
        }
    }

    fn open(&mut self, _: u32) -> Result<(), BackendError> {
        Ok(())
    }

    fn bind(&mut self, _: Vector, _: &EventFd) -> Result<(), BackendError> {
        Ok(())
    }

    fn unbind(&mut self, _: Vector) -> Result<(), BackendError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    fn holders_after_close(&self) -> Holders {
        Holders::Domain
    }

    fn pending(&mut self, _: u32) -> u64 {
        0
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

/// A function of 2048 vectors in a VM of 11 vCPUs.
pub(crate) struct Ours {
    pub(crate) function: MsixFunction<KvmRouter, NoDevice>,
    pub(crate) router: Arc<KvmRouter>,
}

/// A message that no other of 2048 vectors has: address and data.
pub(crate) fn message(index: usize) -> (u32, u32) {
    let (apic, vector) = (index / VECTORS_OF_AN_APIC, index % VECTORS_OF_AN_APIC);
    (0xfee0_0000 | (apic as u32) << 12, 0x24 + vector as u32)
}

impl Ours {
    pub(crate) fn new(ahead: Ahead) -> Result<Self, Box<dyn Error>> {
        let router = Arc::new(KvmRouter::new(Arc::new(floor::vm()?), Irqchip::Kernel, APICS.into()));
        if let Ahead::AtStart = ahead {
            router.publish_destinations(0..APICS)?;
        }
        let bar = Bar::new(0).ok_or("there is a BAR 0")?;
        let layout = Layout::new(TableSize::MAX, (bar, 0), (bar, 0x8000))?;
        Ok(Self { function: MsixFunction::new(layout, router.clone(), NoDevice), router })
    }

    /// What `pci_alloc_irq_vectors` and then `request_irq` do, entry by entry.
    pub(crate) fn enable_one_by_one(&mut self, n: usize) -> Sample {
        self.counting_commits(|ours| {
            ours.function.write_config(2, &0xc000u16.to_le_bytes());
            for index in 0..n {
                ours.write_message(index, (0xfee0_0000, 0xef));
            }
            for index in 0..n {
                ours.write_control(index, 1);
            }
            ours.function.write_config(2, &0x8000u16.to_le_bytes());
            for index in 0..n {
                ours.write_message(index, message(index));
                ours.write_message(index, message(index));
                ours.write_control(index, 0);
            }
        })
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

    /// All of `n` live vectors turned off, by one write.
    pub(crate) fn turn_off(&mut self, n: usize) -> Sample {
        self.enable_at_once(n);
        self.counting_commits(|ours| {
            ours.function.write_config(2, &0u16.to_le_bytes());
        })
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
        self.counting_commits(|ours| {
            ours.write_control(n / 2, 1);
            ours.write_message(n / 2, message(index));
            ours.write_control(n / 2, 0);
        })
    }

    fn counting_commits(&mut self, work: impl FnOnce(&Self)) -> Sample {
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
