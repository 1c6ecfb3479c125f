//! The lane of a socket device whose packets the host's kernel moves, by vhost-vsock: streams with virtio sockets of the host.
//!
//! Invariant: the kernel's device runs while both rings are live, and only then. It starts and stops both at once: a ring
//! that goes on while the other is stopped keeps its place in the kernel.

use std::sync::Arc;

use vhost::vhost_kern::vsock::Vsock as Kernel;
use vhost::vsock::VhostVsock;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;

use super::{EVENT, GuestCid, RECEIVE, TRANSMIT};
use crate::error::{Context, Result};
use crate::virtio::handler::{Handler, Service, Token};
use crate::virtio::lane::Lane;
use crate::virtio::queue::QueueIndex;
use crate::virtio::vhost::{Kind, Rings};

const KIND: Kind = Kind {
    name: "vhost-vsock",
    file: "/dev/vhost-vsock",
    module: "vhost_vsock",
    otherwise: "socket=PATH instead of vhost=on",
};

/// Checks that the host has vhost-vsock.
///
/// # Errors
/// The problem and its remedy.
pub fn check() -> std::result::Result<(), String> {
    KIND.check()
}

/// The handler.
pub(super) struct VhostLane {
    cid: GuestCid,
    rings: Rings<Kernel<Arc<GuestMemoryMmap>>>,
}

impl VhostLane {
    /// The lane of a guest with this CID.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(super) fn new(cid: GuestCid) -> std::io::Result<Self> {
        Ok(Self { cid, rings: Rings::new(KIND, RECEIVE)? })
    }

    /// Has the kernel's device run, with both rings.
    fn run(&self, lane: &Lane) -> Result<()> {
        self.rings.kernel()?.start().context("starting vhost-vsock")?;
        // The driver may have rung before, when the kernel ignored it. The kernel looks at its own packets by itself.
        lane.doorbell(TRANSMIT).map_or(Ok(()), |doorbell| doorbell.write(1)).context("starting vhost-vsock")
    }
}

impl Handler for VhostLane {
    fn init(&mut self, lane: &mut Lane) -> Result<()> {
        let kernel = Kernel::new(Arc::new(lane.memory().clone())).context("opening vhost-vsock")?;
        self.rings.open(lane, kernel)?;
        let cid = self.cid.get();
        let set = self.rings.kernel()?.set_guest_cid(cid);
        set.context(format_args!(
            "--vsock cid={cid}: taking the CID, which only one guest of the host may have"
        ))
    }

    fn start(&mut self, lane: &mut Lane, index: QueueIndex) -> Result<Service> {
        if index == EVENT {
            return Ok(Service::Lane);
        }
        self.rings.start(lane, index, |_, _| Ok(()))?;
        if self.rings.are_running()
            && let Err(error) = self.run(lane)
        {
            self.rings.stop(lane, index, |kernel, _| kernel.stop());
            return Err(error);
        }
        Ok(Service::Host)
    }

    fn stop(&mut self, lane: &mut Lane, index: QueueIndex) {
        if index != EVENT {
            self.rings.stop(lane, index, |kernel, _| kernel.stop());
        }
    }

    fn queue_ready(&mut self, _lane: &mut Lane, _index: QueueIndex) {}

    fn descriptor_ready(&mut self, lane: &mut Lane, token: Token, _ready: EventSet) {
        self.rings.descriptor_ready(lane, token);
    }

    fn vector_changed(&mut self, lane: &mut Lane, index: QueueIndex) {
        if index != EVENT {
            self.rings.vector_changed(lane, index);
        }
    }
}
