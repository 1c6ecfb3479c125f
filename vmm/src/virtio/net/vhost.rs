//! A lane of the network device whose packets the host's kernel moves, by vhost-net.
//!
//! Each pair of queues has a descriptor of /dev/vhost-net. Invariant: a ring has the tap as its backend while its queue is
//! live, and only then.

use std::fs::File;
use std::sync::Arc;

use vhost::net::VhostNet;
use vhost::vhost_kern::net::Net as Kernel;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;

use super::Net;
use super::features::Role;
use crate::error::{Context, Result};
use crate::virtio::handler::{Handler, Service, Token};
use crate::virtio::lane::Lane;
use crate::virtio::queue::QueueIndex;
use crate::virtio::vhost::{Kind, Rings};

const KIND: Kind =
    Kind { name: "vhost-net", file: "/dev/vhost-net", module: "vhost_net", otherwise: "vhost=off" };

/// Checks that the host has vhost-net.
///
/// # Errors
/// The problem and its remedy.
pub fn check() -> std::result::Result<(), String> {
    KIND.check()
}

/// The handler of a pair of queues.
pub(super) struct VhostPair {
    net: Arc<Net>,
    tap: Arc<File>,
    rings: Rings<Kernel<Arc<GuestMemoryMmap>>>,
}

impl VhostPair {
    /// The lane of a receive queue and the transmit queue behind it.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(super) fn new(net: Arc<Net>, receive_queue: QueueIndex, tap: Arc<File>) -> std::io::Result<Self> {
        Ok(Self { net, tap, rings: Rings::new(KIND, receive_queue)? })
    }
}

impl Handler for VhostPair {
    fn init(&mut self, lane: &mut Lane) -> Result<()> {
        let kernel = Kernel::new(Arc::new(lane.memory().clone())).context("opening vhost-net")?;
        self.rings.open(lane, kernel)
    }

    fn start(&mut self, lane: &mut Lane, index: QueueIndex) -> Result<Service> {
        let features = lane.features();
        self.net.start(features).context("setting up the tap for the driver's features")?;
        match Role::of(index, self.net.pairs(), features) {
            Role::Receive | Role::Transmit => {
                let tap = &self.tap;
                self.rings.start(lane, index, |kernel, ring| kernel.set_backend(ring, Some(tap)))?;
                Ok(Service::Host)
            }
            Role::Control | Role::Unused => Ok(Service::Lane),
        }
    }

    fn stop(&mut self, lane: &mut Lane, index: QueueIndex) {
        self.rings.stop(lane, index, |kernel, ring| kernel.set_backend(ring, None));
    }

    fn queue_ready(&mut self, lane: &mut Lane, index: QueueIndex) {
        self.net.serve_control(lane, index);
    }

    fn descriptor_ready(&mut self, lane: &mut Lane, token: Token, _ready: EventSet) {
        self.rings.descriptor_ready(lane, token);
    }

    fn vector_changed(&mut self, lane: &mut Lane, index: QueueIndex) {
        self.rings.vector_changed(lane, index);
    }
}
