//! The rights to a device's vectors, on a fake device that stops at the first broken rule.

mod functions;
mod holders;
mod parents;

use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::backend::{Backend, BackendError, Capabilities, Cookie, Growth};
use crate::delivery::Vector;
use crate::msi::MessageCount;
use crate::testing::{Failures, FakeBackend};

const DYNAMIC: Capabilities = Capabilities {
    vectors: 16,
    growth: Growth::Dynamic,
    independent: true,
    multi_message: false,
    ims: true,
    cookies: true,
};

/// A device of 16 vectors, its pool, and the host's failures.
fn device() -> (FakeBackend, Pool, Failures) {
    device_with(DYNAMIC)
}

fn device_with(capabilities: Capabilities) -> (FakeBackend, Pool, Failures) {
    let failures = Failures::default();
    let device = FakeBackend::with_capabilities(failures.clone(), capabilities);
    (device.clone(), Pool::new(device), failures)
}

fn eventfd() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

/// How many interrupts have come.
fn taken(eventfd: &EventFd) -> u64 {
    eventfd.read().unwrap_or(0)
}

fn at(pool: &Pool, vector: u32) -> VectorHandle {
    pool.alloc_at(HostVector(vector)).unwrap()
}

fn host(vector: Option<HostVectorRef>) -> Option<u32> {
    vector.map(|host| host.vector.0)
}

/// A parent whose management vector 0 is bound, and the function that holds it.
fn parent(pool: &Pool) -> (Parent, LogicalFunction) {
    let table = Arc::new(pool.reserve(0..8).unwrap());
    let mut physical = LogicalFunction::new([table.alloc_at(HostVector(0)).unwrap()]);
    physical.open(1).unwrap();
    (Parent::enable(table, HostVector(0)).unwrap(), physical)
}
