//! A lane of the network device whose packets the host's kernel moves, by vhost-net (linux/vhost.h).
//!
//! Each pair of queues has a descriptor of /dev/vhost-net, whose worker takes chains from the rings in guest memory. The
//! doorbells wake it without the VMM. It signals the eventfd of a queue's vector, which the vm-msi crate attaches to KVM
//! while the vector is unmasked: an interrupt of a masked vector waits in the eventfd.
//!
//! Invariant: a ring has the tap as its backend while its queue is live, and only then. When [`Handler::stop`] returns, the
//! kernel has finished with the ring, and the queue continues where the kernel has stopped.

use std::fs::{File, OpenOptions};
use std::sync::Arc;

use vhost::net::VhostNet;
use vhost::vhost_kern::net::Net as Kernel;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Net;
use super::features::Role;
use crate::error::{Context, Error, Result};
use crate::virtio::handler::{Handler, Service, Token};
use crate::virtio::lane::Lane;
use crate::virtio::queue::{QueueError, QueueIndex};

const DEVICE: &str = "/dev/vhost-net";
/// Entries of `Pair::errors` are the tokens.
const RINGS: usize = 2;

/// Checks that the host has vhost-net.
///
/// # Errors
/// The problem and its remedy.
pub fn check() -> std::result::Result<(), String> {
    match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(format!("{DEVICE}: permission denied; run as root, or give yourself the file"))
        }
        Err(error) => Err(format!("{DEVICE}: {error}; modprobe vhost_net, or vhost=off")),
    }
}

/// The handler of a pair of queues.
pub(super) struct VhostPair {
    net: Arc<Net>,
    receive_queue: QueueIndex,
    tap: Arc<File>,
    kernel: Option<Kernel<Arc<GuestMemoryMmap>>>,
    /// Signalled by the kernel where a ring is invalid.
    errors: [EventFd; RINGS],
    /// Signalled for a queue without a vector. Nobody reads it.
    no_call: EventFd,
    /// Rings with a backend.
    running: [bool; RINGS],
}

impl VhostPair {
    /// The lane of a receive queue and the transmit queue behind it.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(super) fn new(net: Arc<Net>, receive_queue: QueueIndex, tap: Arc<File>) -> std::io::Result<Self> {
        let eventfd = || EventFd::new(EFD_NONBLOCK);
        let (errors, no_call) = ([eventfd()?, eventfd()?], eventfd()?);
        Ok(Self { net, receive_queue, tap, kernel: None, errors, no_call, running: [false; RINGS] })
    }

    /// The kernel's number of a queue: 0 receives, 1 transmits.
    fn ring(&self, index: QueueIndex) -> usize {
        usize::from(index.0.wrapping_sub(self.receive_queue.0))
    }

    fn kernel(&self) -> Result<&Kernel<Arc<GuestMemoryMmap>>> {
        self.kernel.as_ref().ok_or_else(|| Error::host("using vhost-net", "it is not open"))
    }

    fn start_ring(&self, lane: &mut Lane, index: QueueIndex) -> Result<()> {
        let context = "starting vhost-net";
        let (kernel, ring) = (self.kernel()?, self.ring(index));
        if !self.running.contains(&true) {
            let supported = kernel.get_features().context("asking vhost-net for its features")?;
            kernel.set_features(lane.features() & supported).context("setting vhost-net's features")?;
        }
        let absent = || Error::host(context, "the queue is not live");
        let queue = lane.queue(index).ok_or_else(absent)?;
        let (areas, size, position) = (queue.areas(), queue.size(), queue.position());
        let addresses = VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: areas.descriptors,
            used_ring_addr: areas.device,
            avail_ring_addr: areas.driver,
            log_addr: None,
        };
        kernel.set_vring_num(ring, size).context(context)?;
        kernel.set_vring_base(ring, position).context(context)?;
        kernel.set_vring_addr(ring, &addresses).context(context)?;
        kernel.set_vring_kick(ring, lane.doorbell(index).ok_or_else(absent)?).context(context)?;
        if let Some(error) = self.errors.get(ring) {
            kernel.set_vring_err(ring, error).context(context)?;
        }
        self.set_call(lane, index)?;
        kernel.set_backend(ring, Some(&self.tap)).context(context)
    }

    fn set_call(&self, lane: &Lane, index: QueueIndex) -> Result<()> {
        let call = lane.call(index).unwrap_or(&self.no_call);
        self.kernel()?.set_vring_call(self.ring(index), call).context("setting vhost-net's interrupt")
    }

    fn set_running(&mut self, index: QueueIndex, is_running: bool) {
        let ring = self.ring(index);
        if let Some(running) = self.running.get_mut(ring) {
            *running = is_running;
        }
    }
}

impl Handler for VhostPair {
    fn init(&mut self, lane: &mut Lane) -> Result<()> {
        let memory = lane.memory().clone();
        let regions: Vec<_> = memory.iter().map(region).collect::<Result<_>>()?;
        let kernel = Kernel::new(Arc::new(memory)).context("opening vhost-net")?;
        kernel.set_owner().context("starting vhost-net's worker")?;
        kernel.set_mem_table(&regions).context("giving vhost-net the guest's memory")?;
        self.kernel = Some(kernel);
        for (error, token) in self.errors.iter().zip(0..) {
            lane.watch(error, Token(token), EventSet::IN).context("watching vhost-net")?;
        }
        Ok(())
    }

    fn start(&mut self, lane: &mut Lane, index: QueueIndex) -> Result<Service> {
        let features = lane.features();
        self.net.start(features).context("setting up the tap for the driver's features")?;
        match Role::of(index, self.net.pairs(), features) {
            Role::Receive | Role::Transmit => {
                self.start_ring(lane, index)?;
                self.set_running(index, true);
                Ok(Service::Host)
            }
            Role::Control | Role::Unused => Ok(Service::Lane),
        }
    }

    fn stop(&mut self, lane: &mut Lane, index: QueueIndex) {
        let ring = self.ring(index);
        if !self.running.get(ring).copied().unwrap_or(false) {
            return;
        }
        let stopped = self.kernel().and_then(|kernel| {
            kernel.set_backend(ring, None).context("stopping vhost-net")?;
            kernel.get_vring_base(ring).context("asking vhost-net for its position")
        });
        self.set_running(index, false);
        let Some(queue) = lane.queue(index) else { return };
        match stopped {
            // The index of a split ring has 16 bits.
            Ok(position) => queue.set_position(position as u16),
            Err(error) => queue.fail(QueueError::Host(error.to_string())),
        }
    }

    fn queue_ready(&mut self, lane: &mut Lane, index: QueueIndex) {
        self.net.serve_control(lane, index);
    }

    /// The kernel has found a ring to be invalid.
    fn descriptor_ready(&mut self, lane: &mut Lane, token: Token, _ready: EventSet) {
        // A signal that another event has cleared.
        let Some(Ok(_)) = self.errors.get(token.0 as usize).map(EventFd::read) else { return };
        let index = self.receive_queue.0.saturating_add(u16::try_from(token.0).unwrap_or(0));
        if let Some(queue) = lane.queue(QueueIndex(index)) {
            queue.fail(QueueError::Host("vhost-net refuses the ring".to_owned()));
        }
    }

    fn vector_changed(&mut self, lane: &mut Lane, index: QueueIndex) {
        if let Err(error) = self.set_call(lane, index)
            && let Some(queue) = lane.queue(index)
        {
            queue.fail(QueueError::Host(error.to_string()));
        }
    }
}

/// A region of guest memory, where this process has it.
fn region(region: &vm_memory::GuestRegionMmap) -> Result<VhostUserMemoryRegionInfo> {
    let address = region.get_host_address(vm_memory::MemoryRegionAddress(0));
    let address = address.context("giving vhost-net the guest's memory")?;
    Ok(VhostUserMemoryRegionInfo {
        guest_phys_addr: region.start_addr().raw_value(),
        memory_size: region.len(),
        userspace_addr: address.expose_provenance() as u64,
        ..VhostUserMemoryRegionInfo::default()
    })
}
