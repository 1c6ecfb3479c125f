//! The router over KVM: irqfds on the messages of one VM's routing table (KVM API §4.52 KVM_SET_GSI_ROUTING,
//! §4.75 KVM_IRQFD, §4.71 KVM_SIGNAL_MSI).
//!
//! Owns the VM's routing table: nobody else may call KVM_SET_GSI_ROUTING, which replaces it whole. Invariant:
//! every message in use is in the table that the kernel has. One lock (see `publisher.rs`), taken after a domain's and held
//! for no system call. (And a small one, in `deferred.rs`.)

mod deferred;
mod index;
mod irqchip;
mod prefetch;
mod publisher;
mod request;
mod requirements;
mod routes;
mod table;

use std::io;
use std::sync::Arc;

use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;
use rustix::io::Errno;
use vmm_sys_util::eventfd::EventFd;

use crate::apic::DestinationIds;
use crate::interrupt::{Interrupt, Target};
use crate::message::MsiMessage;
use crate::refusal::Refusal;
use crate::router::{Route, Router, RouterError, Signalled, Unclosed};
use deferred::DeferredRoutes;
pub use irqchip::Irqchip;
use publisher::Publisher;
pub use requirements::MissingCapability;
pub use routes::RouteCounters;

/// The errno by which KVM_SIGNAL_MSI says that no APIC took the message: the kernel's -1.
const NOBODY: i32 = Errno::PERM.raw_os_error();

/// The router of one VM.
#[derive(Debug)]
pub struct KvmRouter {
    vm: Arc<VmFd>,
    ids: DestinationIds,
    publisher: Publisher,
    deferred: DeferredRoutes,
}

impl KvmRouter {
    /// A router for a VM whose irqchip exists, with up to `vcpus` vCPUs: the fewer they are, the more of each
    /// one's messages are published ahead. `ids` is what the guest was told of destinations.
    ///
    /// For every choice but [`DestinationIds::Bits8`] the caller has enabled KVM_CAP_X2APIC_API with
    /// KVM_X2APIC_API_USE_32BIT_IDS before, and with KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK where an APIC has ID 255.
    ///
    /// # Errors
    /// This KVM lacks a capability that the router needs, or it is not enabled.
    pub fn new(
        vm: Arc<VmFd>,
        irqchip: Irqchip,
        vcpus: u32,
        ids: DestinationIds,
    ) -> Result<Self, MissingCapability> {
        let capacity = requirements::check(&vm, irqchip, ids)?;
        let publisher = Publisher::with_capacity(irqchip, capacity, vcpus.min(ids.addressable()));
        Ok(Self { vm, ids, publisher, deferred: DeferredRoutes::default() })
    }

    /// What the guest was told of destinations.
    pub fn destination_ids(&self) -> DestinationIds {
        self.ids
    }

    /// Publishes every message by which a device can interrupt these APICs (physical destination, fixed, edge),
    /// by one commit, as far as there is room: afterwards their vectors cost no commit at all. APICs that no message of the
    /// guest can name are skipped.
    ///
    /// # Errors
    /// [`RouterError::Commit`]; the table is as before then.
    pub fn publish_destinations(&self, apic_ids: impl IntoIterator<Item = u32>) -> Result<(), RouterError> {
        let addressable = apic_ids.into_iter().filter(|id| self.ids.contains(*id));
        self.publisher.publish_destinations(addressable, |table| commit(&self.vm, table))
    }

    /// What the routing table holds and has cost so far.
    pub fn counters(&self) -> RouteCounters {
        self.publisher.counters()
    }
}

fn commit(vm: &VmFd, table: &kvm_bindings::KvmIrqRouting) -> Result<(), io::Error> {
    Ok(vm.set_gsi_routing(table)?)
}

impl Router for KvmRouter {
    fn translate(&self, message: MsiMessage) -> Result<Target, Refusal> {
        Ok(Target::for_apics(message, self.ids)?)
    }

    fn find(&self, message: Interrupt) -> Option<Route> {
        self.publisher.find(message)
    }

    fn publish(&self, messages: &[Interrupt], routes: &mut Vec<Result<Route, RouterError>>) {
        self.publisher.publish(messages, routes, |table| commit(&self.vm, table));
    }

    fn attach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        let gsi = route.gsi();
        self.vm
            .register_irqfd(eventfd, gsi.0)
            .map_err(|errno| RouterError::Attach { gsi, source: errno.into() })
    }

    fn detach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        let gsi = route.gsi();
        let detach = || self.vm.unregister_irqfd(eventfd, gsi.0);
        let released = self
            .deferred
            .detach(detach)
            .map_err(|errno| RouterError::Detach { gsi, source: errno.into() })?;
        released.into_iter().for_each(|route| self.withdraw(route));
        Ok(())
    }

    fn withdraw(&self, route: Route) {
        self.publisher.withdraw(&route);
    }

    /// The kernel detaches an irqfd by itself when its eventfd is closed for the last time, but later; and each detach
    /// waits until all that are under way have ended. So the last one is detached for all. Where the kernel refuses
    /// that, something may still be on its way: the messages of all of them stay where they are until a detach, of
    /// whichever eventfd of the VM, has waited.
    fn close(&self, mut attached: Vec<(EventFd, Route)>) -> Vec<Unclosed> {
        let Some((eventfd, route)) = attached.pop() else { return Vec::new() };
        let index = attached.len();
        let closed: Vec<Route> = attached.into_iter().map(|(_closed, route)| route).collect();
        self.deferred.add(closed);
        match self.detach(&eventfd, &route) {
            Ok(()) => {
                self.withdraw(route);
                Vec::new()
            }
            Err(source) => vec![Unclosed { index, eventfd, route, source }],
        }
    }

    /// KVM_SIGNAL_MSI answers how many APICs took the message. Where it finds none it answers 0, or -1 for most logical
    /// destinations, which reaches userspace as EPERM. KVM has no other reason for EPERM here.
    fn signal(&self, message: Interrupt) -> Result<Signalled, RouterError> {
        let written = message.message();
        let msi = kvm_msi {
            address_lo: written.address_low(),
            address_hi: written.address_high(),
            data: written.data,
            ..Default::default()
        };
        match self.vm.signal_msi(msi) {
            Ok(0) => Ok(Signalled::NotAccepted),
            Ok(_) => Ok(Signalled::Delivered),
            Err(errno) if errno.errno() == NOBODY => Ok(Signalled::NotAccepted),
            Err(errno) => Err(RouterError::Signal { message, source: errno.into() }),
        }
    }
}
