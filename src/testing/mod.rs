//! Fakes of the two seams, a reference model, and the operations that drive both: for this crate's tests and
//! for those of embedders (feature `test-utils`).
//!
//! The fakes behave as the kernel does where it hurts: a signal that meets an irqfd without a route is gone,
//! an eventfd attaches once only, an unbound vector pends in the device. They hold real eventfds, and panic
//! where a caller breaks a rule of the seam; so they are for tests alone.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a fake that meets a broken rule stops the test"
)]

mod backend;
mod failures;
mod model;
mod op;
mod reference;
mod restore;
mod router;
mod run;
mod software_run;
mod stage;

pub use backend::FakeBackend;
pub use failures::Failures;
pub use model::Model;
pub use op::{Op, SlotOp};
pub use reference::{
    MsiReference, MsixReference, QueueReference, QueueWrite, Reference, SlotShape, SlotsReference, Write,
};
pub use restore::{function_state, restore_anything};
pub use router::FakeRouter;
pub use run::Run;
pub use software_run::SoftwareRun;
pub use stage::FakeStage;
