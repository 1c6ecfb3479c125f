//! As much of an xHCI driver (xHCI 1.2) as makes a controller raise any of its interrupters, each of which has an MSI
//! message of its own.
//!
//! A transfer's event goes to the interrupter that its TRB names (4.11.3), so one no-data control transfer to a USB device
//! raises one message. Rings have no end that is reached: a run needs fewer than 256 TRBs.

use std::error::Error;
use std::thread::sleep;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::vfio::region::Region;

/// What of memory, from 0 on, the controller reaches.
pub(crate) const MEMORY_BYTES: usize = 1 << 20;

/// Device Context Base Address Array, Command Ring, contexts, and the Transfer Ring of endpoint 0.
const CONTEXTS: u64 = 0x1000;
const COMMANDS: u64 = 0x2000;
const INPUT: u64 = 0x3000;
const OUTPUT: u64 = 0x4000;
const TRANSFERS: u64 = 0x5000;
/// For each interrupter, an Event Ring Segment Table of one entry, and its segment.
const TABLES: u64 = 0x7000;
const TABLE_BYTES: u64 = 64;
const EVENTS: u64 = 0x1_0000;
const SEGMENT_BYTES: u64 = 0x1000;
const SEGMENT_TRBS: u32 = 256;

const TRB_BYTES: u64 = 16;
const CYCLE: u32 = 1;
const ENABLE_SLOT: u32 = 9 << 10;
const ADDRESS_DEVICE: u32 = 11 << 10;
const SETUP_STAGE: u32 = 2 << 10 | IMMEDIATE_DATA;
const STATUS_STAGE: u32 = 4 << 10 | 1 << 16 | INTERRUPT_ON_COMPLETION;
const IMMEDIATE_DATA: u32 = 1 << 6;
const INTERRUPT_ON_COMPLETION: u32 = 1 << 5;
/// SET_CONFIGURATION of configuration 1, with no data.
const SET_CONFIGURATION: u64 = 0x0001_0900;
const SUCCESS: u32 = 1;
const EVENT_HANDLER_BUSY: u64 = 1 << 3;

/// An event that has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(5);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A controller that runs, with one USB device addressed.
pub(crate) struct Controller<'a> {
    registers: &'a Region,
    memory: &'a GuestMemoryMmap,
    operational: u64,
    runtime: u64,
    doorbells: u64,
    slot: u32,
    /// TRBs that were put on each of the two rings.
    commands: u64,
    transfers: u64,
    /// Events that were taken from each interrupter.
    taken: Vec<u64>,
}

impl<'a> Controller<'a> {
    /// Starts it with so many interrupters, and addresses the first USB device that there is.
    pub(crate) fn start(
        registers: &'a Region,
        memory: &'a GuestMemoryMmap,
        interrupters: u32,
    ) -> Result<Self> {
        let capability = |offset| read(registers, offset);
        let mut controller = Self {
            registers,
            memory,
            operational: u64::from(capability(0) & 0xff),
            runtime: u64::from(capability(0x18) & !0x1f),
            doorbells: u64::from(capability(0x14) & !3),
            slot: 0,
            commands: 0,
            transfers: 0,
            taken: vec![0; usize::try_from(interrupters)?],
        };
        controller.run()?;
        controller.slot = controller.command(0, ENABLE_SLOT)?.1;
        let ports = capability(4) >> 24;
        let addressed = (1..=ports).find_map(|port| match controller.address(port) {
            Ok(SUCCESS) => Some(Ok(())),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        addressed.ok_or("no USB device could be addressed")??;
        Ok(controller)
    }

    fn run(&self) -> Result<()> {
        let operational = |offset, value| write(self.registers, self.operational + offset, value);
        operational(0x38, 1);
        operational(0x30, CONTEXTS);
        operational(0x34, 0);
        operational(0x18, COMMANDS | u64::from(CYCLE));
        operational(0x1c, 0);
        for (interrupter, _) in (0u64..).zip(&self.taken) {
            let (table, segment) = (TABLES + interrupter * TABLE_BYTES, segment(interrupter));
            self.memory.write_obj(segment, GuestAddress(table))?;
            self.memory.write_obj(u64::from(SEGMENT_TRBS), GuestAddress(table + 8))?;
            let set = |offset, value| write(self.registers, self.interrupter(interrupter) + offset, value);
            // Table size, dequeue pointer, table address, moderation; then Interrupt Enable.
            [(0x08, 1), (0x18, segment), (0x1c, 0), (0x10, table), (0x14, 0), (0x04, 0), (0x00, 0b10)]
                .into_iter()
                .for_each(|(offset, value)| set(offset, value));
        }
        // Run, and Interrupter Enable.
        operational(0, 0b101);
        Ok(())
    }

    /// Addresses the device at a root port; answers the completion code.
    fn address(&mut self, port: u32) -> Result<u32> {
        self.memory.write_obj(OUTPUT, GuestAddress(CONTEXTS + u64::from(self.slot) * 8))?;
        // Add the slot's context and endpoint 0's; a context has 32 bytes.
        let control_endpoint = 4 << 3 | 3 << 1 | 64 << 16;
        let words = [
            (0x04, 0b11),
            (0x20, 1 << 27 | 3 << 20),
            (0x24, port << 16),
            (0x44, control_endpoint),
            (0x48, TRANSFERS as u32 | CYCLE),
            (0x50, 8),
        ];
        for (offset, word) in words {
            self.memory.write_obj(word, GuestAddress(INPUT + offset))?;
        }
        Ok(self.command(INPUT, ADDRESS_DEVICE | self.slot << 24)?.0)
    }

    /// Raises an interrupter: an event goes to it.
    pub(crate) fn raise(&mut self, interrupter: u32) -> Result<()> {
        let at = TRANSFERS + self.transfers * TRB_BYTES;
        self.put(at, SET_CONFIGURATION, 8, SETUP_STAGE)?;
        self.put(at + TRB_BYTES, 0, interrupter << 22, STATUS_STAGE)?;
        self.transfers += 2;
        write(self.registers, self.doorbells + u64::from(self.slot) * 4, 1);
        self.take_event(interrupter).map(drop)
    }

    /// Has a command done; answers its completion code and slot.
    fn command(&mut self, parameter: u64, control: u32) -> Result<(u32, u32)> {
        const COMMAND_COMPLETION: u32 = 33;
        self.put(COMMANDS + self.commands * TRB_BYTES, parameter, 0, control)?;
        self.commands += 1;
        write(self.registers, self.doorbells, 0);
        loop {
            let (status, control) = self.take_event(0)?;
            // Ports tell of changes too.
            if control >> 10 & 0x3f == COMMAND_COMPLETION {
                return Ok((status >> 24, control >> 24));
            }
        }
    }

    fn put(&self, at: u64, parameter: u64, status: u32, control: u32) -> Result<()> {
        self.memory.write_obj(parameter, GuestAddress(at))?;
        self.memory.write_obj(status, GuestAddress(at + 8))?;
        self.memory.write_obj(control | CYCLE, GuestAddress(at + 12))?;
        Ok(())
    }

    /// Waits for an interrupter's next event and takes it; answers its last two DWORDs.
    fn take_event(&mut self, interrupter: u32) -> Result<(u32, u32)> {
        let taken = self.taken.get_mut(usize::try_from(interrupter)?).ok_or("no such interrupter")?;
        let at = segment(interrupter.into()) + *taken * TRB_BYTES;
        let begun = Instant::now();
        loop {
            let control: u32 = self.memory.read_obj(GuestAddress(at + 12))?;
            if control & CYCLE != 0 {
                *taken += 1;
                let status = self.memory.read_obj(GuestAddress(at + 8))?;
                let register = self.interrupter(interrupter.into()) + 0x18;
                write(self.registers, register, (at + TRB_BYTES) | EVENT_HANDLER_BUSY);
                return Ok((status, control));
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("no event for interrupter {interrupter}").into());
            }
            sleep(Duration::from_micros(100));
        }
    }

    /// An interrupter's registers.
    fn interrupter(&self, interrupter: u64) -> u64 {
        self.runtime + 0x20 + interrupter * 0x20
    }
}

fn segment(interrupter: u64) -> u64 {
    EVENTS + interrupter * SEGMENT_BYTES
}

fn read(registers: &Region, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    registers.read(offset, &mut bytes);
    u32::from_le_bytes(bytes)
}

/// Writes a DWORD: all addresses here are below 4 GiB.
fn write(registers: &Region, offset: u64, value: u64) {
    registers.write(offset, &(value as u32).to_le_bytes());
}
