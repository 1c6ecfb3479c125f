//! The code of `shared.rs` and `table.rs` over the atomics of `shuttle`, which tries every order in which the steps of several
//! threads can come. All steps are sequentially consistent, so their orders are all that can happen.
//!
//! The host is that of one vector: what a domain makes of it, under the domain's lock.

#![allow(dead_code, reason = "the copies have more than these tests use")]
#![allow(clippy::duplicate_mod, reason = "the same code over other atomics is what is wanted")]

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::{check_dfs, thread};

use super::{layout, regs};
use crate::delivery::{Delivery, Vector};
use crate::message::MsiMessage;
use layout::TableSize;
use shared::SharedRegisters;

mod atomic {
    pub(super) use shuttle::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
}

#[path = "shared.rs"]
mod shared;
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

/// A function of one vector, and its host.
struct Function {
    registers: SharedRegisters,
    host: Mutex<Delivery>,
}

impl Function {
    fn after(writes: &[Write]) -> Arc<Self> {
        let registers = SharedRegisters::new(TableSize::new(1).unwrap());
        let function = Self { registers, host: Mutex::new(Delivery::Off) };
        writes.iter().for_each(|write| function.write(*write));
        Arc::new(function)
    }

    fn write(&self, write: Write) {
        let touched = match write {
            Address(low) => self.registers.write_table(0, &low.to_le_bytes()),
            Data(data) => self.registers.write_table(8, &data.to_le_bytes()),
            Control(control) => self.registers.write_table(12, &control.to_le_bytes()),
            Both(both) => self.registers.write_table(8, &both.to_le_bytes()),
            MessageControl(control) => self.registers.write_config(2, &control.to_le_bytes()),
        };
        if !touched.is_empty() {
            self.sync();
        }
    }

    fn sync(&self) -> Delivery {
        let mut host = self.host.lock().unwrap();
        *host = self.registers.delivery(Vector(0));
        *host
    }

    /// The host has followed. What it does not need to know is that a vector which was off is masked.
    fn agrees(&self) -> bool {
        let host = *self.host.lock().unwrap();
        match self.registers.delivery(Vector(0)) {
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
fn a_vector_that_a_vcpu_has_masked_is_silent_whatever_another_one_does() {
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
                let host = *function.host.lock().unwrap();
                assert!(matches!(host, Delivery::Held | Delivery::Off), "{host:?} with {other:?}");
                vcpu.join().unwrap();
            };
            check_dfs(run, None);
        }
    }
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
                move || function.sync()
            });
            writes.into_iter().for_each(|write| function.write(write));
            if let Delivery::Live(message) = other.join().unwrap() {
                assert!(is_whole(message), "{message} in {writes:?}");
            }
            assert_eq!(
                *function.host.lock().unwrap(),
                Delivery::Live(MsiMessage { address: 0xfee0_1000, data: 0x41 })
            );
        };
        check_dfs(run, None);
    }
}
