//! A running guest: what each of its CPUs is told to access, and the interrupts that it has counted.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;
use vm_device::device_manager::IoManager;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vm_msi::MsiMessage;

use super::Machine;
use super::layout::{
    AREA_COMMAND, AREA_OPERATIONS, AREA_SEEN, CONTROL, LOCAL_APIC, MAX_OPERATIONS, NOTES, area,
};
use super::patience::Patience;
use super::vcpu::{self, CONTROL_STOP};

/// The interrupt that wakes a CPU for a command.
const COMMAND_VECTOR: u32 = 0xf1;
/// How often a wait for a CPU looks whether it has lasted too long.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const READ: u64 = 0;
const WRITE: u64 = 0x10;

/// Reads of 256 bits of the local APIC: the interrupts that have come and are not being handled, from 0x200 on, or
/// those that are, from 0x100 on.
fn local_apic_bits(register: u64) -> [Operation; 8] {
    std::array::from_fn(|index| Operation::read(LOCAL_APIC + register + 0x10 * index as u64, 4))
}

/// One access by a guest's instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    code: u64,
    address: u64,
    value: u64,
}

impl Operation {
    /// A read of 1, 2, 4 or 8 bytes.
    pub(crate) fn read(address: u64, width: u8) -> Self {
        Self { code: READ | u64::from(width), address, value: 0 }
    }

    /// A write of 1, 2, 4 or 8 bytes.
    pub(crate) fn write(address: u64, width: u8, value: u64) -> Self {
        Self { code: WRITE | u64::from(width), address, value }
    }
}

/// A guest whose CPUs run.
pub(crate) struct Guest {
    vm: Arc<VmFd>,
    memory: GuestMemoryMmap,
    cpus: Vec<Cpu>,
}

struct Cpu {
    /// The number of the last command, and what tells that it is done.
    mailbox: Mutex<(u64, Receiver<()>)>,
    thread: Mutex<Option<JoinHandle<Result<(), String>>>>,
}

impl Guest {
    pub(super) fn start(machine: &Machine, bus: IoManager) -> Self {
        let bus = Arc::new(bus);
        let cpus = (0..machine.cpus).map(|cpu| {
            let vcpu = vcpu::create(&machine.vm, cpu, &machine.cpuid);
            let (finished, receiver) = mpsc::channel();
            let (bus, memory) = (bus.clone(), machine.memory.clone());
            let thread = thread::Builder::new().name(format!("vcpu{cpu}"));
            let thread = thread.spawn(move || vcpu::run(vcpu, &bus, &memory, &finished)).unwrap();
            Cpu { mailbox: Mutex::new((0, receiver)), thread: Mutex::new(Some(thread)) }
        });
        let cpus = cpus.collect();
        let guest = Self { vm: machine.vm.clone(), memory: machine.memory.clone(), cpus };
        // Each CPU turns its local APIC on before it looks for its first command: from here on they all listen.
        (0..machine.cpus).for_each(|cpu| guest.settle(cpu));
        guest
    }

    /// Has a CPU perform accesses, in order; returns what the reads found, in order.
    pub(crate) fn perform(&self, cpu: u8, operations: &[Operation]) -> Vec<u64> {
        operations.chunks(MAX_OPERATIONS).flat_map(|chunk| self.command(cpu, chunk)).collect()
    }

    /// Returns when a CPU has handled every interrupt that was pending in its local APIC at the call.
    pub(crate) fn settle(&self, cpu: u8) {
        // The CPU runs no handler when it reads: what it finds in the Interrupt Request Register is what is left.
        // What it finds only later came after the call.
        let requested = || self.perform(cpu, &local_apic_bits(0x200));
        let mut left = requested();
        eventually(
            || {
                let is_left = left.iter().any(|bits| *bits != 0);
                if is_left {
                    left = left.iter().zip(requested()).map(|(left, now)| left & now).collect();
                }
                !is_left
            },
            || format!("CPU {cpu} to handle what is pending"),
        );
    }

    /// What a CPU finds in its local APIC, for a failure's message. It finds it between two handlers: what is in
    /// service then was lost on its way from the local APIC to the CPU, and no device or router is to blame.
    pub(crate) fn local_apic(&self, cpu: u8) -> String {
        let [requested, in_service] = [0x200, 0x100].map(|register| {
            let bits = self.perform(cpu, &local_apic_bits(register));
            let is_set = |vector: &usize| bits[vector / 32] >> (vector % 32) & 1 != 0;
            (0..256).filter(is_set).collect::<Vec<_>>()
        });
        format!("CPU {cpu}: vectors {requested:x?} requested, {in_service:x?} in service")
    }

    /// Has a CPU read.
    pub(crate) fn read(&self, cpu: u8, address: u64, width: u8) -> u64 {
        self.perform(cpu, &[Operation::read(address, width)])[0]
    }

    /// Has a CPU write.
    pub(crate) fn write(&self, cpu: u8, address: u64, width: u8, value: u64) {
        self.perform(cpu, &[Operation::write(address, width, value)]);
    }

    /// How many interrupts of a vector a CPU has handled.
    pub(crate) fn interrupts(&self, cpu: u8, vector: u8) -> u64 {
        self.load(area(cpu) + u64::from(vector) * 8)
    }

    /// How many interrupts a CPU has handled, commands apart.
    pub(crate) fn all_interrupts(&self, cpu: u8) -> u64 {
        (0..=u8::MAX)
            .filter(|v| u32::from(*v) != COMMAND_VECTOR)
            .map(|vector| self.interrupts(cpu, vector))
            .sum()
    }

    /// Waits until a CPU has handled `count` interrupts of a vector; fails if they are more, or do not come.
    pub(crate) fn wait_for(&self, cpu: u8, vector: u8, count: u64) {
        let what = || format!("interrupt {count} of vector {vector:#x} on CPU {cpu}");
        eventually(|| self.interrupts(cpu, vector) >= count, what);
        assert_eq!(self.interrupts(cpu, vector), count, "interrupts of vector {vector:#x} on CPU {cpu}");
    }

    /// What a device notes in memory before it raises an interrupt of this vector.
    pub(crate) fn note(&self, vector: u8, note: u64) {
        self.store(NOTES + u64::from(vector) * 8, note);
    }

    /// The newest note that a handler of this vector has seen, on whichever CPU.
    pub(crate) fn seen(&self, vector: u8) -> u64 {
        let seen = |cpu| self.load(area(cpu) + AREA_SEEN + u64::from(vector) * 8);
        (0..self.cpus.len() as u8).map(seen).max().unwrap()
    }

    fn command(&self, cpu: u8, operations: &[Operation]) -> Vec<u64> {
        let mut mailbox = self.cpus[usize::from(cpu)].mailbox.lock().unwrap();
        let (number, finished) = &mut *mailbox;
        *number += 1;
        self.give(cpu, *number, operations);
        self.await_end(cpu, finished);
        let place = area(cpu) + AREA_OPERATIONS;
        (0u64..)
            .zip(operations)
            .filter(|(_, operation)| operation.code < WRITE)
            .map(|(index, _)| self.load(place + index * 24 + 16))
            .collect()
    }

    /// Waits until a CPU has done its command.
    fn await_end(&self, cpu: u8, finished: &Receiver<()>) {
        let mut patience = Patience::new();
        loop {
            match finished.recv_timeout(ASK_AGAIN) {
                Ok(()) => return,
                Err(RecvTimeoutError::Timeout) => {
                    assert!(patience.is_left(), "CPU {cpu} does not answer after {:?}", patience.elapsed());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let thread = self.cpus[usize::from(cpu)].thread.lock().unwrap().take();
                    panic!("CPU {cpu} ended: {:?}", thread.map(JoinHandle::join))
                }
            }
        }
    }

    fn give(&self, cpu: u8, number: u64, operations: &[Operation]) {
        let end = Operation { code: 0, address: 0, value: 0 };
        for (index, Operation { code, address, value }) in (0u64..).zip(operations.iter().chain([&end])) {
            let place = area(cpu) + AREA_OPERATIONS + index * 24;
            self.store(place, *code);
            self.store(place + 8, *address);
            self.store(place + 16, *value);
        }
        self.store(area(cpu) + AREA_COMMAND, number);
        let message = fixed(cpu, COMMAND_VECTOR as u8);
        let msi = kvm_msi { address_lo: message.address_low(), data: message.data, ..Default::default() };
        self.vm.signal_msi(msi).unwrap();
    }

    fn load(&self, address: u64) -> u64 {
        self.memory.load(GuestAddress(address), Ordering::SeqCst).unwrap()
    }

    fn store(&self, address: u64, value: u64) {
        self.memory.store(value, GuestAddress(address), Ordering::SeqCst).unwrap();
    }
}

/// Every CPU is told to stop. One that does not answer is left to the end of the process, and named.
impl Drop for Guest {
    fn drop(&mut self) {
        let stop = [Operation::write(CONTROL + CONTROL_STOP, 4, 0)];
        for (cpu, state) in (0u8..).zip(&self.cpus) {
            let number = state.mailbox.lock().unwrap_or_else(PoisonError::into_inner).0;
            self.give(cpu, number + 1, &stop);
        }
        let mut patience = Patience::new();
        for (cpu, state) in self.cpus.iter().enumerate() {
            let Some(thread) = state.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else {
                continue;
            };
            while !thread.is_finished() && patience.is_left() {
                thread::sleep(Duration::from_micros(200));
            }
            if !thread.is_finished() {
                eprintln!("CPU {cpu} of the guest does not stop");
                continue;
            }
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("CPU {cpu} of the guest: {error}"),
                Err(_) => eprintln!("CPU {cpu} of the guest: its thread panicked"),
            }
        }
    }
}

/// The message of a fixed interrupt to one CPU.
pub(crate) fn fixed(cpu: u8, vector: u8) -> MsiMessage {
    MsiMessage { address: 0xfee0_0000 | u64::from(cpu) << 12, data: vector.into() }
}

/// Waits until something is so, and fails when it does not come.
pub(crate) fn eventually(mut is_so: impl FnMut() -> bool, what: impl Fn() -> String) {
    let mut patience = Patience::new();
    while !is_so() {
        assert!(patience.is_left(), "waited {:?} for {}", patience.elapsed(), what());
        thread::sleep(Duration::from_micros(50));
    }
}
