//! The host's end of a network device: a tap, or a socket in tests.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::tap::{Offloads, Tap};

/// Where packets come from and go to. Each packet begins with a virtio header.
pub trait Link: Send + Sync {
    /// Its name in the report.
    fn name(&self) -> &str;

    /// Non-blocking descriptors, one for each pair of queues. A read takes one packet, and a write sends one.
    fn queues(&self) -> &[Arc<File>];

    /// The offloads that it has.
    fn offloads(&self) -> Offloads;

    /// Its MTU, if it has one.
    fn mtu(&self) -> Option<u16>;

    /// Sets the offloads of packets that are read.
    ///
    /// # Errors
    /// The host's.
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()>;

    /// Uses the first `count` descriptors.
    ///
    /// # Errors
    /// The host's.
    fn attach(&self, count: usize) -> io::Result<()>;
}

impl Link for Tap {
    fn name(&self) -> &str {
        Tap::name(self).as_str()
    }

    fn queues(&self) -> &[Arc<File>] {
        Tap::queues(self)
    }

    fn offloads(&self) -> Offloads {
        Tap::offloads(self)
    }

    fn mtu(&self) -> Option<u16> {
        Tap::mtu(self)
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        Tap::set_offloads(self, offloads)
    }

    fn attach(&self, count: usize) -> io::Result<()> {
        Tap::attach(self, count)
    }
}
