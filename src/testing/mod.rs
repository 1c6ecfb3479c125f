//! Fakes of a router, a device and a remapping stage, a reference model, and the operations that drive them.
//! They are for this crate's tests and for those of embedders (feature `test-utils`).
//!
//! The fakes behave as the kernel does in the cases that lose interrupts. A signal of an irqfd without a
//! route is dropped. An eventfd attaches only once. An interrupt of an unbound vector is pending in the
//! device. They use real eventfds, and panic if a caller breaks a contract, so they are only for tests.
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
