//! The code of `registers.rs` and `table.rs` over the atomics of `shuttle`, which tries every order in which the steps of several
//! threads can come. All steps are sequentially consistent, so their orders are all that can happen.
//!
//! The host is that of two vectors: what a domain makes of them, under the domain's lock.

#![allow(dead_code, reason = "the copies have more than these tests use")]
#![allow(clippy::duplicate_mod, reason = "the same code over other atomics is what is wanted")]

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

/// What a vCPU writes.
#[derive(Clone, Copy, Debug)]
enum Write {
    Address(u32),
    Data(u32),
    Control(u32),
    /// Data and Vector Control by one access.
    Both(u64),
    MessageControl(u16),
}
use Write::*;

const MASK: Write = Control(1);
const UNMASK: Write = Control(0);

/// A function of two vectors, and its host. All writes are to the second one.
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

    /// The second vector is then.
    fn sync(&self, touched: Touched) -> Delivery {
        let mut host = self.host.lock().unwrap();
        touched.vectors().for_each(|vector| host[vector.index()] = self.registers.delivery(vector));
        host[1]
    }

    fn host(&self) -> Delivery {
        self.host.lock().unwrap()[1]
    }

    /// The host has followed. What it does not need to know is that a vector which was off is masked.
    fn agrees(&self) -> bool {
        let host = self.host();
        match self.registers.delivery(Vector(1)) {
            Delivery::Held => matches!(host, Delivery::Held | Delivery::Off),
            delivery => host == delivery,
        }
    }
}

#[test]
fn of_any_two_writes_at_the_same_moment_the_host_follows_both() {
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
    let befores: Vec<Vec<Write>> = [0, ENABLE, ENABLE | FUNCTION_MASK]
        .into_iter()
        .flat_map(|control| {
            let with = |writes: &[Write]| [&[MessageControl(control)], writes].concat();
            [with(&[]), with(&message[..1]), with(&message), with(&[message[0], message[1], UNMASK])]
        })
        .collect();
    for before in befores {
        // In which order the two are named makes no difference.
        let pairs = (0..).zip(&writes).flat_map(|(n, one)| writes[n..].iter().map(|other| (*one, *other)));
        for (one, other) in pairs {
            let before = before.clone();
            let run = move || {
                let function = Function::after(&before);
                let vcpu = thread::spawn({
                    let function = function.clone();
                    move || function.write(other)
                });
                function.write(one);
                vcpu.join().unwrap();
                assert!(function.agrees(), "{one:?} and {other:?} after {before:?}");
            };
            check_dfs(run, None);
        }
    }
}

#[test]
fn a_vector_that_a_vcpu_has_masked_is_silent_whatever_another_one_does_to_message_control() {
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
fn a_function_that_is_masked_is_silent_though_a_vector_is_written_for_the_first_time() {
    let run = || {
        let function = Function::after(&[MessageControl(ENABLE)]);
        let spawn = |work: fn(&Function)| {
            let function = function.clone();
            thread::spawn(move || work(&function))
        };
        // A message without an address is one here.
        let others = [
            spawn(|function| _ = function.sync(Touched::one(Vector(1)))),
            spawn(|function| function.write(Both(0x41))),
        ];
        function.write(MessageControl(ENABLE | FUNCTION_MASK));
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(!matches!(function.host(), Delivery::Live(_)), "{:?}", function.host());
    };
    // Three threads have too many orders to try all. Wrong is one of few changes from one thread to another.
    check_pct(run, 20_000, 3);
}

/// Whether address and data are of one message, where each has the same odd or even number.
fn is_whole(MsiMessage { address, data }: MsiMessage) -> bool {
    address >> 12 & 1 == u64::from(data & 1)
}

#[test]
fn whoever_looks_while_a_vector_moves_sees_its_old_or_its_new_message() {
    let to_move = |before: Write, after: Write| [before, Address(0xfee0_1000), Data(0x41), after];
    let moves =
        [to_move(MASK, UNMASK), to_move(MessageControl(ENABLE | FUNCTION_MASK), MessageControl(ENABLE))];
    for writes in moves {
        let run = move || {
            let function =
                Function::after(&[Address(0xfee0_0000), Data(0x40), UNMASK, MessageControl(ENABLE)]);
            // A thread that tries something again, or a vCPU on behalf of another vector.
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
