//! The router over KVM: irqfds on the messages of a VM's routing table (KVM API §4.52 KVM_SET_GSI_ROUTING,
//! §4.75 KVM_IRQFD, §4.71 KVM_SIGNAL_MSI).
//!
//! Owns the VM's routing table. No other code may call KVM_SET_GSI_ROUTING, because it replaces the whole
//! table. Invariant: every message in use is in the table that the kernel has. Locking: the lock of the
//! [publisher](crate::publisher) is taken after a domain's, and no system call is made under it.
//! `deferred.rs` has an innermost lock.

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

/// The errno of KVM_SIGNAL_MSI if no APIC accepts the message: the kernel's -1.
const NO_APIC: i32 = Errno::PERM.raw_os_error();

/// The router of one VM. `V` is the type that wraps the VM's descriptor. It may be `dyn KvmVm`.
pub struct KvmRouter<V: KvmVm + ?Sized = VmFd> {
    vm: Arc<V>,
    ids: DestinationIds,
    publisher: Publisher<KvmTable<V>>,
    deferred: DeferredRoutes,
}

/// The GSIs of a router's messages, for an embedder that uses some of KVM's GSIs itself.
#[derive(Debug)]
pub struct MessageGsis<I> {
    /// The embedder's allocator: see [`Publisher::new`]. GSIs of irqchip pins, and GSIs that KVM does not
    /// support, are ignored.
    pub allocator: I,
    /// How many entries of the routing table to keep free for [`KvmRouter::set_own_entries`], besides the
    /// irqchip's pins.
    pub kept_free: usize,
}

impl<V: KvmVm + ?Sized> KvmRouter<V> {
    /// A router for a VM with up to `vcpus` vCPUs, whose irqchip exists. With fewer vCPUs, more messages of
    /// each are prefetched. `ids` is the format of destinations that the guest was told of. Messages get all
    /// GSIs above the irqchip's pins.
    ///
    /// Except with [`DestinationIds::Bits8`], the caller must have enabled KVM_CAP_X2APIC_API with
    /// KVM_X2APIC_API_USE_32BIT_IDS, and with KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK if an APIC has ID 255.
    ///
    /// # Errors
    /// KVM lacks a capability that the router needs, or the capability is not enabled.
    pub fn new(
        vm: Arc<V>,
        irqchip: Irqchip,
        vcpus: u32,
        ids: DestinationIds,
    ) -> Result<Self, MissingCapability> {
        let gsis = MessageGsis { allocator: Irqchip::message_gsis(), kept_free: 0 };
        Self::with_gsis(vm, irqchip, vcpus, ids, gsis)
    }

    /// As [`new`](Self::new), for an embedder that has other uses of GSIs, or entries of its own.
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

    /// Replaces the entries of the routing table that are not messages, with one commit. At first they are
    /// the irqchip's [pins](Irqchip::pin_routes). An embedder adds a Hyper-V synthetic interrupt or a Xen
    /// event channel to these.
    ///
    /// Their GSIs must not be GSIs of messages: see [`MessageGsis`].
    ///
    /// Interrupts meanwhile: none is lost on a route that stays the same. Each later commit carries the new
    /// entries.
    ///
    /// # Errors
    /// [`RouterError::Commit`]: KVM refused the table, and the old entries stay in force.
    pub fn set_own_entries(&self, entries: Vec<kvm_irq_routing_entry>) -> Result<(), RouterError> {
        self.publisher.set_own_entries(entries)
    }

    /// The format of destinations that the guest was told of.
    pub fn destination_ids(&self) -> DestinationIds {
        self.ids
    }

    /// Publishes every message by which a device can interrupt these APICs (physical destination, fixed,
    /// edge), with one commit, while the table has free room. Vectors with these messages then cost no
    /// commit. APICs that the guest's messages cannot address are skipped.
    ///
    /// # Errors
    /// [`RouterError::Commit`]: KVM refused the table, and the old one stays in force.
    pub fn publish_destinations(&self, apic_ids: impl IntoIterator<Item = u32>) -> Result<(), RouterError> {
        let addressable = apic_ids.into_iter().filter(|id| self.ids.contains(*id));
        let messages = addressable.flat_map(|id| ApicMessage::fixed(id, DEVICE_VECTORS));
        self.publisher.prefetch(messages.map(Interrupt::from))
    }

    /// The contents and the cost of the routing table so far.
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

    /// The kernel detaches an irqfd some time after its eventfd is closed for the last time. Each detach
    /// waits for those that are under way, so detaching the last eventfd covers all. If the kernel refuses
    /// that, interrupts may still be injected on any of these routes. They stay until a later detach of any
    /// eventfd of the VM.
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

    /// KVM_SIGNAL_MSI returns how many APICs accepted the message. If it finds none, it returns 0, or -1 for
    /// most logical destinations. The -1 reaches userspace as EPERM, which has no other cause here.
    fn signal(&self, message: Interrupt) -> Result<Signalled, RouterError> {
        match self.vm.signal_msi(table::msi(table::seen(message))) {
            Ok(0) => Ok(Signalled::NotAccepted),
            Ok(_) => Ok(Signalled::Delivered),
            Err(errno) if errno.raw_os_error() == Some(NO_APIC) => Ok(Signalled::NotAccepted),
            Err(source) => Err(RouterError::Signal { message, source }),
        }
    }
}
