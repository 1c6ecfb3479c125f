//! Two rings that the host's kernel serves, by a vhost device (linux/vhost.h): a receive queue and a transmit queue.
//!
//! The kernel's worker takes chains from the rings in guest memory. The doorbells wake it without the VMM. It signals the
//! eventfd of a queue's vector, which the vm-msi crate attaches to KVM while the vector is unmasked: an interrupt of a
//! masked vector waits in the eventfd.
//!
//! Invariant: a ring runs while its queue is live, and only then. When [`Rings::stop`] returns, the kernel has finished
//! with the ring, and the queue continues where the kernel has stopped. Only the lane's thread uses the rings.

use std::fs::OpenOptions;
use std::io::ErrorKind;

use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::handler::Token;
use super::lane::Lane;
use super::queue::{QueueError, QueueIndex};
use crate::error::{Context, Error, Result};

/// Entries of `Rings::errors` are the tokens.
const RINGS: usize = 2;

/// A kind of vhost device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    /// Its name in messages.
    pub(super) name: &'static str,
    pub(super) file: &'static str,
    pub(super) module: &'static str,
    /// What a person gives instead.
    pub(super) otherwise: &'static str,
}

impl Kind {
    /// Checks that the host has it.
    ///
    /// # Errors
    /// The problem and its remedy.
    pub(super) fn check(self) -> std::result::Result<(), String> {
        let Self { file, module, otherwise, .. } = self;
        match OpenOptions::new().read(true).write(true).open(file) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Err(format!("{file}: permission denied; run as root, or give yourself the file"))
            }
            Err(error) => Err(format!("{file}: {error}; modprobe {module}, or {otherwise}")),
        }
    }
}

/// The rings of a device.
pub(super) struct Rings<K> {
    kind: Kind,
    receive_queue: QueueIndex,
    kernel: Option<K>,
    /// Signalled by the kernel where a ring is invalid.
    errors: [EventFd; RINGS],
    /// Signalled for a queue without a vector. Nobody reads it.
    no_call: EventFd,
    running: [bool; RINGS],
}

impl<K: VhostBackend> Rings<K> {
    /// The rings of a receive queue and the transmit queue behind it.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(super) fn new(kind: Kind, receive_queue: QueueIndex) -> std::io::Result<Self> {
        let eventfd = || EventFd::new(EFD_NONBLOCK);
        let (errors, no_call) = ([eventfd()?, eventfd()?], eventfd()?);
        Ok(Self { kind, receive_queue, kernel: None, errors, no_call, running: [false; RINGS] })
    }

    /// Uses this device of the kernel, which was just opened.
    ///
    /// # Errors
    /// The host refuses it.
    pub(super) fn open(&mut self, lane: &Lane, kernel: K) -> Result<()> {
        let name = self.kind.name;
        let regions: Vec<_> = lane.memory().iter().map(region).collect::<Result<_>>()?;
        kernel.set_owner().context(format_args!("starting the worker of {name}"))?;
        kernel.set_mem_table(&regions).context(format_args!("giving {name} the guest's memory"))?;
        self.kernel = Some(kernel);
        for (error, token) in self.errors.iter().zip(0..) {
            lane.watch(error, Token(token), EventSet::IN).context(format_args!("watching {name}"))?;
        }
        Ok(())
    }

    /// The kernel's device.
    ///
    /// # Errors
    /// It is not open.
    pub(super) fn kernel(&self) -> Result<&K> {
        self.kernel
            .as_ref()
            .ok_or_else(|| Error::host(format_args!("using {}", self.kind.name), "it is not open"))
    }

    /// The kernel's number of a queue: 0 receives, 1 transmits.
    pub(super) fn ring(&self, index: QueueIndex) -> usize {
        usize::from(index.0.wrapping_sub(self.receive_queue.0))
    }

    /// Whether both rings run.
    pub(super) fn are_running(&self) -> bool {
        self.running == [true; RINGS]
    }

    /// Gives the kernel the ring of a queue, and has `run` start it.
    ///
    /// # Errors
    /// The host refuses it, or `run` fails.
    pub(super) fn start(
        &mut self,
        lane: &mut Lane,
        index: QueueIndex,
        run: impl FnOnce(&K, usize) -> vhost::Result<()>,
    ) -> Result<()> {
        let name = self.kind.name;
        let context = format_args!("starting {name}");
        let (kernel, ring) = (self.kernel()?, self.ring(index));
        if !self.running.contains(&true) {
            let supported = kernel.get_features().context(format_args!("asking {name} for its features"))?;
            let features = lane.features() & supported;
            kernel.set_features(features).context(format_args!("setting the features of {name}"))?;
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
        run(kernel, ring).context(context)?;
        if let Some(running) = self.running.get_mut(ring) {
            *running = true;
        }
        Ok(())
    }

    /// Stops a ring by `halt`, if it runs. The queue continues where the kernel has stopped.
    pub(super) fn stop(
        &mut self,
        lane: &mut Lane,
        index: QueueIndex,
        halt: impl FnOnce(&K, usize) -> vhost::Result<()>,
    ) {
        let (name, ring) = (self.kind.name, self.ring(index));
        let Some(true) = self.running.get_mut(ring).map(std::mem::take) else { return };
        let stopped = self.kernel().and_then(|kernel| {
            halt(kernel, ring).context(format_args!("stopping {name}"))?;
            kernel.get_vring_base(ring).context(format_args!("asking {name} for its position"))
        });
        let Some(queue) = lane.queue(index) else { return };
        match stopped {
            // The index of a split ring has 16 bits.
            Ok(position) => queue.set_position(position as u16),
            Err(error) => queue.fail(QueueError::Host(error.to_string())),
        }
    }

    /// A descriptor of the rings is ready: the kernel has found a ring to be invalid.
    pub(super) fn descriptor_ready(&mut self, lane: &mut Lane, token: Token) {
        // A signal that another event has cleared.
        let Some(Ok(_)) = self.errors.get(token.0 as usize).map(EventFd::read) else { return };
        let index = self.receive_queue.0.saturating_add(u16::try_from(token.0).unwrap_or(0));
        if let Some(queue) = lane.queue(QueueIndex(index)) {
            queue.fail(QueueError::Host(format!("{} refuses the ring", self.kind.name)));
        }
    }

    /// The vector of a queue has changed.
    pub(super) fn vector_changed(&self, lane: &mut Lane, index: QueueIndex) {
        if let Err(error) = self.set_call(lane, index)
            && let Some(queue) = lane.queue(index)
        {
            queue.fail(QueueError::Host(error.to_string()));
        }
    }

    fn set_call(&self, lane: &Lane, index: QueueIndex) -> Result<()> {
        let call = lane.call(index).unwrap_or(&self.no_call);
        let set = self.kernel()?.set_vring_call(self.ring(index), call);
        set.context(format_args!("setting the interrupt of {}", self.kind.name))
    }
}

/// A region of guest memory, where this process has it.
fn region(region: &vm_memory::GuestRegionMmap) -> Result<VhostUserMemoryRegionInfo> {
    let address = region.get_host_address(vm_memory::MemoryRegionAddress(0));
    let address = address.context("giving vhost the guest's memory")?;
    Ok(VhostUserMemoryRegionInfo {
        guest_phys_addr: region.start_addr().raw_value(),
        memory_size: region.len(),
        userspace_addr: address.expose_provenance() as u64,
        ..VhostUserMemoryRegionInfo::default()
    })
}
