//! The slots of one function in BAR 2, fired by a physical device.
//!
//! For a slot with a host vector, a guest's ring rings the physical queue with that vector. The device signals the
//! vector, and the irqfd delivers the interrupt. While the slot is masked, the interrupt waits in the eventfd. A slot
//! without a host vector records the ring as its pending bit. No ring of a slot in use is lost.
//!
//! Interrupts in flight: the device signals some time after a ring. If the guest frees the slot or resets the
//! function before, the interrupt may become pending for the slot's next user.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};
use vm_msi::domain::{BusMaster, Latched, VectorReport};
use vm_msi::ims::SlotArrayLayout;
use vm_msi::pool::VectorMap;
use vm_msi::{Delivery, ImsFunction, Router, Store, Vector};

use super::physical::{BusMasterGuard, PhysicalDevice};
use crate::error::{Context, Result};
use crate::ims::BarSlots;
use crate::ims::bar_slots::Triggered;
use crate::vfio::host_interrupts::{self, HostInterrupts};
use crate::vfio::interrupts::extended;
use crate::vfio::interrupts::probe::RELEASE_DELAY;

/// The slots.
pub struct MediatedSlots {
    function: ImsFunction,
    vector_map: VectorMap,
    relay: Arc<OwnedFd>,
    /// Set from the function's first Bus Master Enable to its reset.
    running: Mutex<Option<BusMasterGuard>>,
    physical: Arc<PhysicalDevice>,
}

impl MediatedSlots {
    /// Creates slots without host vectors.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if the device has too few vectors, or the router, the host or the
    /// device does not support an IMS.
    pub fn new(
        layout: SlotArrayLayout,
        router: Arc<dyn Router>,
        physical: Arc<PhysicalDevice>,
    ) -> Result<Self> {
        let context = || format!("creating a function of device {}", physical.address());
        let part = physical.sub_device(layout.slots.get()).context(context())?;
        let vector_map = part.vector_map();
        let function = ImsFunction::try_new(layout, router, part).context(context())?;
        let function = function.with_budget(Arc::clone(physical.budget()));
        function.set_release_delay(RELEASE_DELAY);
        let relay = function.relay_fd().context(context())?;
        Ok(Self { function, vector_map, relay, running: Mutex::default(), physical })
    }

    fn set_running(&self, running: Option<BusMasterGuard>) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
    }

    fn is_running(&self) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The domain's vectors, with their host vectors and the host's interrupt counts.
    fn vectors(&self, reported: &[VectorReport]) -> Vec<Value> {
        let listed = std::fs::read_to_string(host_interrupts::PATH).unwrap_or_default();
        let counted = HostInterrupts::of(&listed, "msix", self.physical.address());
        let row = |vector: &VectorReport| {
            let host = self.vector_map.get(vector.vector).map(|host| host.vector.0);
            let count = host.and_then(|host| counted.count(host));
            let more = [("host_vector", json!(host)), ("host_interrupts", json!(count))];
            extended(json!(vector), more.map(|(name, value)| (name.to_owned(), value)))
        };
        reported.iter().map(row).collect()
    }
}

impl BarSlots for MediatedSlots {
    fn layout(&self) -> SlotArrayLayout {
        *self.function.layout()
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        self.function.read_slots(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.function.write_slots(offset, data);
    }

    fn trigger(&self, slot: Vector) -> Triggered {
        if self.function.look(|slots| slots.delivery(slot)) == Delivery::Off {
            return Triggered::Dropped;
        }
        match self.function.latch(slot) {
            Latched::Waits => {}
            // The host vector stays allocated while the caller holds the IMS device's lock.
            Latched::HasHostVector => {
                if let Some(host) = self.vector_map.get(slot) {
                    self.physical.doorbell().ring(host.vector);
                }
            }
            Latched::NoSuchVector => return Triggered::Dropped,
        }
        Triggered::Taken
    }

    /// Enables bus mastering of the physical device the first time. Without it, a ring would be lost.
    fn set_bus_master(&self, bus_master: BusMaster) {
        if bus_master == BusMaster::Enabled && !self.is_running() {
            self.set_running(Some(self.physical.hold_bus_master()));
        }
        self.function.set_bus_master(bus_master);
    }

    fn reset(&self) {
        self.function.reset(|| ());
    }

    fn quiesce(&self) {
        self.set_running(None);
    }

    fn retry(&self) {
        self.function.retry();
        self.physical.retry();
    }

    fn relay_fd(&self) -> Option<RawFd> {
        Some(self.relay.as_raw_fd())
    }

    fn deliver_relayed(&self) {
        self.function.deliver_relayed();
    }

    fn report(&self) -> Map<String, Value> {
        let domain = self.function.report();
        let vectors = Value::from(self.vectors(&domain.vectors));
        let mediated = json!({
            "host_address": self.physical.address().to_string(),
            "host_device": self.physical.doorbell().name(),
            "vectors": self.layout().slots.get(),
            "domain": extended(json!(domain), [("vectors".to_owned(), vectors)]),
            "pool": self.physical.report(),
        });
        [("mediated_slots".to_owned(), mediated)].into_iter().collect()
    }
}
