//! Who has an interrupt that an embedder makes for a vector in a device's place.

/// What became of an interrupt that a mediator has for a vector: see [`DeviceDomain::latch`](super::DeviceDomain::latch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "where the vector has a host vector nothing was done, and the device has to signal it"]
pub enum Latched {
    /// It waits in the domain: the vector has no host vector that the device could signal.
    Waits,
    /// Nothing was done: the vector has a host vector, and the device is the one to signal it.
    HasHostVector,
    /// Nothing was done: the function has no such vector.
    NoSuchVector,
}
