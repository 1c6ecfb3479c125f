//! The router over KVM: irqfds on the messages of one VM's routing table (KVM API §4.52 KVM_SET_GSI_ROUTING,
//! §4.75 KVM_IRQFD, §4.71 KVM_SIGNAL_MSI).
//!
//! Owns the VM's routing table: nobody else may call KVM_SET_GSI_ROUTING, which replaces it whole. Invariant:
//! every message in use is in the table that the kernel has. One lock, held across a commit and never across
//! KVM_IRQFD; taken after a domain's.

mod irqchip;
mod routes;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use crate::apic::ApicMessage;
use crate::router::{Route, Router, RouterError};
pub use irqchip::Irqchip;
pub use routes::RouteCounters;
use routes::Routes;

/// The router of one VM.
#[derive(Debug)]
pub struct KvmRouter {
    vm: Arc<VmFd>,
    routes: Mutex<Routes>,
}

impl KvmRouter {
    /// A router for a VM whose irqchip exists, with up to `vcpus` vCPUs: the fewer they are, the more of each
    /// one's messages are published ahead.
    pub fn new(vm: Arc<VmFd>, irqchip: Irqchip, vcpus: u32) -> Self {
        Self { vm, routes: Mutex::new(Routes::new(irqchip, vcpus)) }
    }

    /// Publishes every message by which a device can interrupt these APICs (physical destination, fixed, edge),
    /// by one commit, as far as there is room: afterwards their vectors cost no commit at all.
    ///
    /// # Errors
    /// [`RouterError::Commit`]; the table is as before then.
    pub fn publish_destinations(&self, apic_ids: impl IntoIterator<Item = u8>) -> Result<(), RouterError> {
        self.routes().publish_destinations(apic_ids, |table| commit(&self.vm, table))
    }

    /// What the routing table holds and has cost so far.
    pub fn counters(&self) -> RouteCounters {
        self.routes().counters()
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn commit(vm: &VmFd, table: &kvm_bindings::KvmIrqRouting) -> Result<(), io::Error> {
    Ok(vm.set_gsi_routing(table)?)
}

impl Router for KvmRouter {
    fn publish(&self, messages: &[ApicMessage], routes: &mut Vec<Result<Route, RouterError>>) {
        self.routes().publish(messages, routes, |table| commit(&self.vm, table));
    }

    fn attach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        let gsi = route.gsi();
        self.vm
            .register_irqfd(eventfd, gsi.0)
            .map_err(|errno| RouterError::Attach { gsi, source: errno.into() })
    }

    fn detach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        let gsi = route.gsi();
        self.vm
            .unregister_irqfd(eventfd, gsi.0)
            .map_err(|errno| RouterError::Detach { gsi, source: errno.into() })
    }

    fn withdraw(&self, route: Route) {
        self.routes().withdraw(route);
    }

    /// The kernel detaches an irqfd by itself when its eventfd is closed for the last time, but later; and each detach
    /// waits until all that are under way have ended. So the last one is detached for all.
    fn close(&self, mut attached: Vec<(EventFd, Route)>) {
        let Some((last, route)) = attached.pop() else { return };
        let mut routes: Vec<Route> = attached.into_iter().map(|(_closed, route)| route).collect();
        let waited = self.detach(&last, &route);
        routes.push(route);
        // Where the kernel did not wait, something may still be on its way: their messages stay where they are.
        if waited.is_ok() {
            routes.into_iter().for_each(|route| self.withdraw(route));
        }
    }

    fn signal(&self, message: ApicMessage) -> Result<(), RouterError> {
        let written = message.message();
        let msi = kvm_msi {
            address_lo: written.address_low(),
            address_hi: written.address_high(),
            data: written.data,
            ..Default::default()
        };
        match self.vm.signal_msi(msi) {
            Ok(_) => Ok(()),
            Err(errno) => Err(RouterError::Signal { message, source: errno.into() }),
        }
    }
}
