//! The router over KVM: irqfds on the messages of one VM's routing table (KVM API §4.52 KVM_SET_GSI_ROUTING,
//! §4.75 KVM_IRQFD, §4.71 KVM_SIGNAL_MSI).
//!
//! Owns the VM's routing table: nobody else may call KVM_SET_GSI_ROUTING, which replaces it whole. Invariant: every message in use is
//! in the table that the kernel has. Locking: that of the [publisher](crate::publisher), taken after a domain's and held for no
//! system call; and an innermost one in `deferred.rs`.

mod deferred;
mod irqchip;
mod requirements;
mod table;
mod vm;

use std::fmt;
use std::iter;
use std::sync::Arc;

use kvm_bindings::kvm_irq_routing_entry;
use kvm_ioctls::VmFd;
use rustix::io::Errno;
use vmm_sys_util::eventfd::EventFd;

use crate::apic::{ApicMessage, DestinationIds};
use crate::interrupt::{Interrupt, Target};
use crate::message::MsiMessage;
use crate::publisher::{DEVICE_VECTORS, Publisher};
use crate::refusal::Refusal;
use crate::router::{Gsi, Route, Router, RouterError, Signalled, Unclosed};
use deferred::DeferredRoutes;
pub use irqchip::Irqchip;
pub use requirements::MissingCapability;
use table::KvmTable;
pub use vm::KvmVm;

pub use crate::publisher::RouteCounters;

/// The errno by which KVM_SIGNAL_MSI says that no APIC took the message: the kernel's -1.
const NOBODY: i32 = Errno::PERM.raw_os_error();

/// The router of one VM. `V` is the type of the VM's descriptor, which may be `dyn KvmVm`.
pub struct KvmRouter<V: KvmVm + ?Sized = VmFd> {
    vm: Arc<V>,
    ids: DestinationIds,
    publisher: Publisher<KvmTable<V>>,
    deferred: DeferredRoutes,
}

/// The GSIs of a router's messages, where they are not all that KVM has above the irqchip's pins.
#[derive(Debug)]
pub struct MessageGsis<I> {
    /// The embedder's allocator: see [`Publisher::new`]. A GSI that is an irqchip's pin's, or that KVM does not take, counts as none.
    pub allocator: I,
    /// How many entries of the routing table are kept free for [`KvmRouter::set_own_entries`], besides the irqchip's pins.
    pub kept_free: usize,
}

impl<V: KvmVm + ?Sized> KvmRouter<V> {
    /// A router for a VM whose irqchip exists, with up to `vcpus` vCPUs: the fewer there are, the more of each one's messages are
    /// prefetched. `ids` is what the guest was told of destinations. Messages have all GSIs above the irqchip's pins.
    ///
    /// For every choice but [`DestinationIds::Bits8`] the caller has enabled KVM_CAP_X2APIC_API with
    /// KVM_X2APIC_API_USE_32BIT_IDS before, and with KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK where an APIC has ID 255.
    ///
    /// # Errors
    /// This KVM lacks a capability that the router needs, or it is not enabled.
    pub fn new(
        vm: Arc<V>,
        irqchip: Irqchip,
        vcpus: u32,
        ids: DestinationIds,
    ) -> Result<Self, MissingCapability> {
        let gsis = MessageGsis { allocator: Irqchip::message_gsis(), kept_free: 0 };
        Self::with_gsis(vm, irqchip, vcpus, ids, gsis)
    }

    /// The same, for an embedder that has other uses of GSIs or entries of its own.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_gsis(
        vm: Arc<V>,
        irqchip: Irqchip,
        vcpus: u32,
        ids: DestinationIds,
        gsis: MessageGsis<impl Iterator<Item = Gsi> + Send + 'static>,
    ) -> Result<Self, MissingCapability> {
        let capacity = requirements::check(&*vm, irqchip, ids)?.saturating_sub(gsis.kept_free);
        let mut allocator = gsis.allocator;
        let allocator = iter::from_fn(move || allocator.next().filter(|gsi| Irqchip::is_for_messages(*gsi)));
        let vcpus = vcpus.min(ids.addressable());
        let publisher = Publisher::new(KvmTable::new(vm.clone()), allocator, capacity, vcpus)
            .with_own_entries(irqchip.pin_routes().collect());
        Ok(Self { vm, ids, publisher, deferred: DeferredRoutes::default() })
    }

    /// Replaces the entries of the routing table that are no message's, by a commit. At start they are the irqchip's
    /// [pins](Irqchip::pin_routes). A Hyper-V synthetic interrupt or a Xen event channel is added to these.
    ///
    /// Their GSIs must be none of the messages': see [`MessageGsis`]. Interrupts meanwhile: each commit carries the entries, and routes
    /// that stay the same lose nothing.
    ///
    /// # Errors
    /// [`RouterError::Commit`]: KVM refused the table. The entries of before stay in force.
    pub fn set_own_entries(&self, entries: Vec<kvm_irq_routing_entry>) -> Result<(), RouterError> {
        self.publisher.set_own_entries(entries)
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
        let messages = addressable.flat_map(|id| ApicMessage::fixed(id, DEVICE_VECTORS));
        self.publisher.prefetch(messages.map(Interrupt::from))
    }

    /// What the routing table holds and has cost so far.
    pub fn counters(&self) -> RouteCounters {
        self.publisher.counters()
    }
}

impl<V: KvmVm + ?Sized> fmt::Debug for KvmRouter<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmRouter").field("ids", &self.ids).finish_non_exhaustive()
    }
}

impl<V: KvmVm + ?Sized> Router for KvmRouter<V> {
    fn translate(&self, message: MsiMessage) -> Result<Target, Refusal> {
        Ok(Target::for_apics(message, self.ids)?)
    }

    fn get(&self, message: Interrupt) -> Option<Route> {
        self.publisher.get(message)
    }

    fn get_or_publish(&self, messages: &[Interrupt], routes: &mut Vec<Result<Route, RouterError>>) {
        self.publisher.get_or_publish(messages, routes);
    }

    fn attach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        let gsi = route.gsi();
        self.vm.register_irqfd(eventfd, gsi).map_err(|source| RouterError::Attach { gsi, source })
    }

    fn detach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        let gsi = route.gsi();
        let detach = || self.vm.unregister_irqfd(eventfd, gsi);
        let released = self.deferred.detach(detach).map_err(|source| RouterError::Detach { gsi, source })?;
        released.into_iter().for_each(|route| self.put(route));
        Ok(())
    }

    fn put(&self, route: Route) {
        self.publisher.put(route);
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
                self.put(route);
                Vec::new()
            }
            Err(source) => vec![Unclosed { index, eventfd, route, source }],
        }
    }

    /// KVM_SIGNAL_MSI answers how many APICs took the message. Where it finds none it answers 0, or -1 for most logical
    /// destinations, which reaches userspace as EPERM. KVM has no other reason for EPERM here.
    fn signal(&self, message: Interrupt) -> Result<Signalled, RouterError> {
        match self.vm.signal_msi(table::msi(table::seen(message))) {
            Ok(0) => Ok(Signalled::NotAccepted),
            Ok(_) => Ok(Signalled::Delivered),
            Err(errno) if errno.raw_os_error() == Some(NOBODY) => Ok(Signalled::NotAccepted),
            Err(source) => Err(RouterError::Signal { message, source }),
        }
    }
}
