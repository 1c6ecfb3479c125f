//! Interrupt remapping: a remapping unit between a guest's messages and its interrupt controllers.
//!
//! A guest with a remapping unit writes messages that name entries of the unit's table. It moves an interrupt
//! by changing the table, and the message stays the same. The meaning of a message is therefore state of its
//! own, and it can change without a write to the vector. A [`Stage`] is that state, and [`Remapped`] puts it
//! in front of a VM's router for one function. The function's domain and its irqfds work as without
//! remapping. The domain asks the router for the *present* translation of each message, and compares it with
//! the message that the vector is live on.
//!
//! An invalidation has two steps, in this order. First the stage drops its cache, so that it answers from the
//! guest's present table. Then [`InterruptFunction::invalidate`](crate::InterruptFunction::invalidate) is
//! called for each function behind the stage, and compares every vector again. A [`Unit`] knows its
//! functions, and does both. Afterwards no vector of the function delivers on an old translation. This holds
//! also if the guest has masked, unmasked or rewritten a vector meanwhile: the later of two syncs finds the
//! new translation. A vector whose message the table does not let through is held until an invalidation after
//! which the table does.
//!
//! Locking: the stage's lock is innermost, like that of a store. A domain takes it under its own lock, never
//! together with a store's lock or a router's, and no system call is made under it. A stage must not call a
//! domain.
//!
//! ```
//! use std::collections::HashMap;
//! use std::sync::{Arc, RwLock};
//!
//! use vm_msi::refusal::Fault;
//! use vm_msi::msix::{Bar, Layout, TableSize};
//! use vm_msi::remap::{Stage, Unit, handle};
//! use vm_msi::{MsiMessage, MsixFunction, RequesterId};
//! # use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//!
//! /// A minimal remapping unit: a table of messages.
//! #[derive(Default)]
//! struct Table(RwLock<HashMap<u32, MsiMessage>>);
//!
//! impl Stage for Table {
//!     fn translate(&self, _: RequesterId, message: MsiMessage) -> Result<MsiMessage, Fault> {
//!         let index = handle::index(message)?.ok_or(Fault::Compatibility)?;
//!         self.0.read().unwrap().get(&index).copied().ok_or(Fault::NotPresent { index })
//!     }
//! }
//!
//! let unit = Unit::new(Arc::new(Table::default()));
//! # let router = Arc::new(FakeRouter::new(Failures::default()));
//! # let backend = FakeBackend::new(Failures::default());
//! # let bar = Bar::new(0).unwrap();
//! # let layout = Layout::new(TableSize::new(4).unwrap(), (bar, 0), (bar, 0x1000))?;
//! // Each function is made behind the unit, with a router of its own.
//! let function = unit.admit(router, RequesterId(0x0a00), |router| MsixFunction::try_new(layout, router, backend))?;
//!
//! // The guest's message names entry 7. The entry is not present, so the vector is held.
//! function.write_config(2, &[0, 0x80]);
//! function.write_table(0, &handle::message(7).address.to_le_bytes());
//! function.write_table(12, &[0; 4]);
//! assert_eq!(function.report().live, 0);
//! // The guest fills the entry, and then invalidates.
//! let target = MsiMessage { address: 0xfee0_1000, data: 0x41 };
//! unit.stage().0.write().unwrap().insert(7, target);
//! unit.invalidate(|_table| { /* drop the cached entries */ });
//! assert_eq!(function.report().vectors[0].message, Some(target));
//! # Ok(())
//! # }
//! ```

pub mod handle;
mod identity;
mod remapped;
mod stage;
mod unit;

pub use identity::Identity;
pub use remapped::Remapped;
pub use stage::Stage;
pub use unit::{Invalidate, Unit};
