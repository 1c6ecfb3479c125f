//! Accesses of two vCPUs to every device of the machine's buses.
//!
//! Promise: no access of any address, width and value panics, hangs or fails, and the functions are released afterwards.

use arbitrary::Arbitrary;
use vm_device::bus::{MmioAddress, PioAddress};
use vm_device::device_manager::{MmioManager, PioManager};
use vm_memory::{Bytes, GuestAddress};

use super::machine::{Machine, RAM};
use crate::layout;

/// Number of operations that count.
const MOST: usize = 256;

/// Where an access goes. The devices are near these addresses.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Target {
    Port(u16),
    Ports { which: u8, offset: u8 },
    Config { function: u8, register: u16 },
    Bar { page: u8, offset: u16 },
    HighBar { page: u8, offset: u16 },
    Ioapic(u8),
    Anywhere(u64),
}

/// What a vCPU does.
#[derive(Arbitrary, Clone, Debug)]
enum Op {
    Read(Target, u8),
    Write(Target, [u8; 8], u8),
    /// Enables decoding and bus mastering of a function.
    Start(u8),
    Memory(u32, [u8; 8]),
    EndOfInterrupt(u8),
    Packet(u8),
    Serve,
}

#[derive(Arbitrary, Debug)]
struct Input {
    /// Whether the vCPUs are threads that run at the same time. Otherwise they take turns.
    threads: bool,
    vcpus: [Vec<Op>; 2],
}

/// # Panics
/// A promise is broken.
pub fn bus(bytes: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(arbitrary::Unstructured::new(bytes)) else { return };
    let machine = Machine::new();
    let [first, second] =
        input.vcpus.each_ref().map(|ops| ops.get(..ops.len().min(MOST)).unwrap_or_default());
    if input.threads {
        std::thread::scope(|scope| {
            scope.spawn(|| first.iter().for_each(|op| machine.perform(op)));
            second.iter().for_each(|op| machine.perform(op));
        });
    } else {
        for step in 0..first.len().max(second.len()) {
            [first, second].iter().filter_map(|ops| ops.get(step)).for_each(|op| machine.perform(op));
        }
    }
    machine.serve();
    assert!(!machine.root.reports().is_empty());
    machine.root.release();
}

impl Target {
    /// The port, or else the address.
    fn place(self) -> Result<u16, u64> {
        const PORTS: [u16; 8] = [0x3f8, 0xcf8, 0x60, 0xf4, 0xc000, 0x505, 0x600, 0xcfc];
        let bar = |start: u64, page: u8, offset: u16| start + u64::from(page) * 0x1000 + u64::from(offset);
        match self {
            Self::Port(port) => Ok(port),
            Self::Ports { which, offset } => {
                let start = match which % 9 {
                    8 => layout::ACPI_POWER_PORTS.start,
                    which => PORTS[usize::from(which)],
                };
                Ok(start.wrapping_add((offset & 0xf).into()))
            }
            Self::Config { function, register } => {
                let register =
                    u64::from(if register & 0x8000 == 0 { register & 0xff } else { register & 0xfff });
                let function = u64::from(function % 10) << 3 | u64::from(function >> 7);
                Err(layout::PCI_ECAM.start + (function << 12) + register)
            }
            Self::Bar { page, offset } => Err(bar(layout::PCI_MMIO32.start, page, offset)),
            Self::HighBar { page, offset } => Err(bar(1 << 40, page, offset)),
            Self::Ioapic(offset) => Err(layout::IOAPIC + u64::from(offset)),
            Self::Anywhere(address) => Err(address),
        }
    }
}

impl Machine {
    fn perform(&self, op: &Op) {
        match op {
            Op::Read(target, width) => {
                let mut data = [0; 8];
                let data = data.get_mut(..usize::from(width % 9)).unwrap_or_default();
                // A bus without a device at the address refuses it.
                let _ = match target.place() {
                    Ok(port) => self.buses.pio_read(PioAddress(port), data).is_ok(),
                    Err(address) => self.buses.mmio_read(MmioAddress(address), data).is_ok(),
                };
            }
            Op::Write(target, data, width) => {
                let data = data.get(..usize::from(width % 9)).unwrap_or_default();
                let _ = match target.place() {
                    Ok(port) => self.buses.pio_write(PioAddress(port), data).is_ok(),
                    Err(address) => self.buses.mmio_write(MmioAddress(address), data).is_ok(),
                };
            }
            Op::Start(function) => {
                let command = Target::Config { function: *function, register: 4 };
                self.perform(&Op::Write(command, [7, 0, 0, 0, 0, 0, 0, 0], 2));
            }
            Op::Memory(address, data) => {
                let address = u64::from(*address) % (RAM - data.len()) as u64;
                self.memory.write_slice(data, GuestAddress(address)).expect("RAM");
            }
            Op::EndOfInterrupt(vector) => self.ioapic.end_of_interrupt(*vector).expect("no eventfd is full"),
            Op::Packet(length) => drop(self.peer.send(&vec![0; usize::from(*length) * 8 + 12])),
            Op::Serve => self.serve(),
        }
    }
}
