//! The code of `registers.rs` and `table.rs` over the atomics of `shuttle`, which tries every order of the
//! steps of two threads. All steps are `SeqCst`, so no other outcome is possible.
//!
//! A model of the domain reads two vectors under a mutex, as the real domain does under its lock.

#![allow(dead_code, reason = "the copies have more than these tests use")]
#![allow(clippy::duplicate_mod, reason = "the tests need the same code over other atomics")]

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::{check_dfs, check_pct, thread};

use super::{layout, regs};
use crate::delivery::{Delivery, Touched, Vector};
use crate::message::MsiMessage;
use layout::TableSize;
use registers::ControlAndTable;

mod atomic {
    pub(super) use shuttle::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
}

#[path = "registers.rs"]
mod registers;
#[path = "table.rs"]
mod table;

const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;

/// A write of a vCPU.
#[derive(Clone, Copy, Debug)]
enum Write {
    Address(u32),
    Data(u32),
    Control(u32),
    /// Data and Vector Control in one access.
    Both(u64),
    MessageControl(u16),
}
use Write::*;

const MASK: Write = Control(1);
const UNMASK: Write = Control(0);

/// A function of two vectors, and the model of its domain. All writes are to the second vector.
struct Function {
    registers: ControlAndTable,
    host: Mutex<[Delivery; 2]>,
}

impl Function {
    fn after(writes: &[Write]) -> Arc<Self> {
        let registers = ControlAndTable::new(TableSize::new(2).unwrap());
        let function = Self { registers, host: Mutex::new([Delivery::Off; 2]) };
        writes.iter().for_each(|write| function.write(*write));
        Arc::new(function)
    }

    fn write(&self, write: Write) {
        let touched = match write {
            Address(low) => self.registers.write_table(16, &low.to_le_bytes()),
            Data(data) => self.registers.write_table(24, &data.to_le_bytes()),
            Control(control) => self.registers.write_table(28, &control.to_le_bytes()),
            Both(both) => self.registers.write_table(24, &both.to_le_bytes()),
            MessageControl(control) => self.registers.write_config(2, &control.to_le_bytes()),
        };
        if !touched.is_empty() {
            self.sync(touched);
        }
    }

    /// Returns the new delivery of the second vector.
    fn sync(&self, touched: Touched) -> Delivery {
        let mut host = self.host.lock().unwrap();
        touched.vectors().for_each(|vector| host[vector.index()] = self.registers.delivery(vector));
        host[1]
    }

    fn host(&self) -> Delivery {
        self.host.lock().unwrap()[1]
    }

    /// Whether the model has followed. It need not follow a vector from off to held.
    fn has_followed(&self) -> bool {
        let host = self.host();
        match self.registers.delivery(Vector(1)) {
            Delivery::Held => matches!(host, Delivery::Held | Delivery::Off),
            delivery => host == delivery,
        }
    }
}

fn the_host_follows_both_of_any_two(control: u16) {
    let writes = [
        Address(0),
        Address(0xfee0_1000),
        Data(0),
        Data(0x41),
        MASK,
        UNMASK,
        Both(0),
        Both(1 << 32),
        Both(0x42),
        MessageControl(0),
        MessageControl(ENABLE),
        MessageControl(ENABLE | FUNCTION_MASK),
    ];
    let message = [Address(0xfee0_0000), Data(0x40)];
    let with = |writes: &[Write]| [&[MessageControl(control)], writes].concat();
    let befores = [with(&[]), with(&message[..1]), with(&message), with(&[message[0], message[1], UNMASK])];
    // Each in a thread of the machine's: they take minutes.
    std::thread::scope(|scope| {
        for before in befores {
            scope.spawn(move || {
                // The order within a pair makes no difference.
                let pairs =
                    (0..).zip(&writes).flat_map(|(n, one)| writes[n..].iter().map(|other| (*one, *other)));
                pairs.for_each(|pair| the_host_follows_both(&before, pair));
            });
        }
    });
}

/// In every order of the steps of two writes, of two vCPUs, after these writes.
fn the_host_follows_both(before: &[Write], (one, other): (Write, Write)) {
    let before = before.to_vec();
    let run = move || {
        let function = Function::after(&before);
        let vcpu = thread::spawn({
            let function = function.clone();
            move || function.write(other)
        });
        function.write(one);
        vcpu.join().unwrap();
        assert!(function.has_followed(), "{one:?} and {other:?} after {before:?}");
    };
    check_dfs(run, None);
}

#[test]
fn the_host_follows_both_of_any_two_concurrent_writes_while_msix_is_off() {
    the_host_follows_both_of_any_two(0);
}

#[test]
fn the_host_follows_both_of_any_two_concurrent_writes() {
    the_host_follows_both_of_any_two(ENABLE);
}

#[test]
fn the_host_follows_both_of_any_two_concurrent_writes_while_the_function_is_masked() {
    the_host_follows_both_of_any_two(ENABLE | FUNCTION_MASK);
}

#[test]
fn a_masked_vector_is_silent_whatever_another_vcpu_writes_to_message_control() {
    for other in [0, FUNCTION_MASK, ENABLE, ENABLE | FUNCTION_MASK].map(MessageControl) {
        for control in [ENABLE, ENABLE | FUNCTION_MASK] {
            let run = move || {
                let function =
                    Function::after(&[Address(0xfee0_0000), Data(0x40), UNMASK, MessageControl(control)]);
                let vcpu = thread::spawn({
                    let function = function.clone();
                    move || function.write(other)
                });
                function.write(MASK);
                let host = function.host();
                assert!(matches!(host, Delivery::Held | Delivery::Off), "{host:?} with {other:?}");
                vcpu.join().unwrap();
            };
            check_dfs(run, None);
        }
    }
}

#[test]
fn a_masked_function_is_silent_during_the_first_write_of_a_vector() {
    let run = || {
        let function = Function::after(&[MessageControl(ENABLE)]);
        let spawn = |work: fn(&Function)| {
            let function = function.clone();
            thread::spawn(move || work(&function))
        };
        // A message whose address is 0.
        let others = [
            spawn(|function| _ = function.sync(Touched::one(Vector(1)))),
            spawn(|function| function.write(Both(0x41))),
        ];
        function.write(MessageControl(ENABLE | FUNCTION_MASK));
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(!matches!(function.host(), Delivery::Live(_)), "{:?}", function.host());
    };
    // Three threads have too many orders to try all. An error would show after few switches between threads.
    check_pct(run, 20_000, 3);
}

/// Whether address and data belong to one message: both have an even or an odd number.
fn is_whole(MsiMessage { address, data }: MsiMessage) -> bool {
    address >> 12 & 1 == u64::from(data & 1)
}

#[test]
fn a_thread_that_reads_a_moving_vector_sees_its_old_or_its_new_message() {
    let to_move = |before: Write, after: Write| [before, Address(0xfee0_1000), Data(0x41), after];
    let moves =
        [to_move(MASK, UNMASK), to_move(MessageControl(ENABLE | FUNCTION_MASK), MessageControl(ENABLE))];
    for writes in moves {
        let run = move || {
            let function =
                Function::after(&[Address(0xfee0_0000), Data(0x40), UNMASK, MessageControl(ENABLE)]);
            // Another thread, such as one that retries, or a vCPU that writes another vector.
            let other = thread::spawn({
                let function = function.clone();
                move || function.sync(Touched::one(Vector(1)))
            });
            writes.into_iter().for_each(|write| function.write(write));
            if let Delivery::Live(message) = other.join().unwrap() {
                assert!(is_whole(message), "{message} in {writes:?}");
            }
            assert_eq!(function.host(), Delivery::Live(MsiMessage { address: 0xfee0_1000, data: 0x41 }));
        };
        check_dfs(run, None);
    }
}
