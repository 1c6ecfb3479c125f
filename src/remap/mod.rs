//! Interrupt remapping: what stands between a guest's messages and its interrupt controllers.
//!
//! A guest with a remapping unit writes messages that only this unit can read, and moves an interrupt by
//! changing the unit's table: the message stays as it is. So what a message means is state of its own, which
//! changes behind the vectors' backs. A [`Stage`] is that state, and [`Remapped`] puts it in front of a VM's
//! router for one function. The function's domain runs behind it unchanged, with its irqfds: it asks the router
//! what each message is *now* and compares that with what the vector is live on.
//!
//! An invalidation is two steps, in this order: the stage forgets what it had cached, so that it answers by the
//! guest's table as it is now; then [`InterruptFunction::invalidate`](crate::InterruptFunction::invalidate) is called for every
//! function behind it, which compares all over again. A [`Unit`] knows them all, and does both. When that has returned, no vector of the function delivers
//! on an old translation, also if the guest masked, unmasked or rewrote it meanwhile: whoever comes second finds
//! the new one. A vector whose message the table does not let through is held, and comes alive at the
//! invalidation after which it does.
//!
//! Locking: the stage's lock is innermost, as the store's; it is taken under a domain's, alone, and held for no
//! system call. A stage never calls back into a domain.
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
//! /// The least of a remapping unit: a table of messages.
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
//! // The guest names entry 7, which is not present: held.
//! function.write_config(2, &[0, 0x80]);
//! function.write_table(0, &handle::message(7).address.to_le_bytes());
//! function.write_table(12, &[0; 4]);
//! assert_eq!(function.report().live, 0);
//! // It fills the entry in, and says so.
//! let target = MsiMessage { address: 0xfee0_1000, data: 0x41 };
//! unit.stage().0.write().unwrap().insert(7, target);
//! unit.invalidate(|_table| { /* forget what was cached */ });
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
