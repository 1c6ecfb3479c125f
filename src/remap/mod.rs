//! Interrupt remapping: what stands between a guest's messages and its interrupt controllers.
//!
//! A guest with a remapping unit writes messages that only this unit can read, and moves an interrupt by
//! changing the unit's table: the message stays as it is. So what a message means is state of its own, which
//! changes behind the vectors' backs. A [`Stage`] is that state, and [`Remapped`] puts it in front of a VM's
//! router for one function. The function's domain runs behind it unchanged, with its irqfds: it asks the router
//! what each message is *now* and compares that with what the vector is live on.
//!
//! An invalidation is two steps, in this order: the stage forgets what it had cached, so that it answers by the
//! guest's table as it is now; then [`Function::invalidate`](crate::Function::invalidate) is called for every
//! function behind it, which compares all over again. When that has returned, no vector of the function delivers
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
//! use vm_msi::remap::{Remapped, Stage, handle};
//! use vm_msi::{MsiMessage, RequesterId, Router};
//! # use vm_msi::testing::{Failures, FakeRouter};
//!
//! /// The least of a remapping unit: a table of messages.
//! #[derive(Default)]
//! struct Unit(RwLock<HashMap<u32, MsiMessage>>);
//!
//! impl Stage for Unit {
//!     fn translate(&self, _: RequesterId, message: MsiMessage) -> Result<MsiMessage, Fault> {
//!         let index = handle::index(message)?.ok_or(Fault::Compatibility)?;
//!         self.0.read().unwrap().get(&index).copied().ok_or(Fault::NotPresent { index })
//!     }
//! }
//!
//! let unit = Arc::new(Unit::default());
//! # let vm_router = Arc::new(FakeRouter::new(Failures::default()));
//! // One for each function; `MsixFunction::new` takes it in the place of the VM's router.
//! let router = Remapped::new(vm_router, unit.clone(), RequesterId(0x0a00));
//!
//! let message = handle::message(7);
//! assert!(router.translate(message).is_err(), "entry 7 is not present");
//! let target = MsiMessage { address: 0xfee0_1000, data: 0x41 };
//! unit.0.write().unwrap().insert(7, target); // and then `invalidate` of each function
//! assert_eq!(router.translate(message).unwrap().message(), target);
//! ```

pub mod handle;
mod identity;
mod remapped;
mod stage;

pub use identity::Identity;
pub use remapped::Remapped;
pub use stage::Stage;
