//! A virtio device: registers, device model, memory and interrupts.
//!
//! Owns the lock of the registers, which covers the effects of a register access and the service of one request with
//! its notification. After a reset of the device or of a queue, nothing from before takes effect.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use vm_memory::GuestMemoryMmap;
use vm_msi::domain::BusMaster;
use vm_msi::{SoftwareMsix, Vector};
use vmm_sys_util::eventfd::EventFd;

use super::device::Device;
use super::queue::{NO_VECTOR, QueueIndex, Served};
use super::registers::{ISR_CONFIG, ISR_QUEUE, Registers, WriteEffects};
use crate::report;

/// Whether a queue may have further requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Done,
    More,
}

/// A virtio device.
pub struct Transport {
    device: Arc<dyn Device>,
    memory: GuestMemoryMmap,
    /// The doorbell of each queue.
    doorbells: Vec<EventFd>,
    registers: Mutex<Registers>,
    msix: SoftwareMsix,
}

impl Transport {
    /// A device at power-on. `doorbells` are its queues' non-blocking eventfds, in order.
    #[must_use]
    pub fn new(
        device: Arc<dyn Device>,
        memory: GuestMemoryMmap,
        doorbells: Vec<EventFd>,
        msix: SoftwareMsix,
    ) -> Self {
        let registers = Mutex::new(Registers::new(device.features(), device.queues()));
        // The Command register's value at power-on.
        msix.set_bus_master(BusMaster::Disabled);
        Self { device, memory, doorbells, registers, msix }
    }

    /// The device model.
    #[must_use]
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// Its MSI-X.
    #[must_use]
    pub fn msix(&self) -> &SoftwareMsix {
        &self.msix
    }

    /// Its queues' doorbells, in order.
    #[must_use]
    pub fn doorbells(&self) -> &[EventFd] {
        &self.doorbells
    }

    /// Accesses registers without further effects.
    pub fn look<T>(&self, look: impl FnOnce(&mut Registers) -> T) -> T {
        look(&mut self.registers())
    }

    /// Changes registers and performs the required actions.
    pub fn change(&self, change: impl FnOnce(&mut Registers, &GuestMemoryMmap) -> WriteEffects) {
        let mut registers = self.registers();
        let effects = change(&mut registers, &self.memory);
        self.apply(&mut registers, effects);
    }

    /// Sets Bus Master Enable, which memory accesses and interrupts need.
    pub fn set_bus_master(&self, bus_master: BusMaster) {
        self.change(|registers, _| {
            self.msix.set_bus_master(bus_master);
            let is_enabled = bus_master == BusMaster::Enabled;
            let kick_queues = is_enabled && !registers.bus_master;
            registers.bus_master = is_enabled;
            WriteEffects { kick_queues, notify_driver: false }
        });
    }

    /// Rings a queue's doorbell. An absent queue is ignored.
    pub fn ring(&self, queue: QueueIndex) {
        if let Some(doorbell) = self.doorbells.get(usize::from(queue.0)) {
            // The write fails only if the counter is full, which is readable, too.
            let _ = doorbell.write(1);
        }
    }

    /// Serves at most as many requests as the queue has entries. If there are more, it rings the doorbell again, so
    /// that a busy driver does not monopolise the worker.
    pub fn serve(&self, queue: QueueIndex) {
        let limit = self.look(|registers| registers.queue(queue).map_or(0, |queue| queue.size()));
        for _ in 0..limit {
            if self.serve_one(queue) == Progress::Done {
                return;
            }
        }
        self.ring(queue);
    }

    fn serve_one(&self, index: QueueIndex) -> Progress {
        let mut registers = self.registers();
        if !registers.is_live() {
            return Progress::Done;
        }
        let suppression = registers.suppression();
        let Some(queue) = registers.queue_mut(index) else { return Progress::Done };
        let serve = |request: super::queue::Request<'_>| self.device.serve(index, request);
        match queue.serve(&self.memory, suppression, serve) {
            Ok(Served::Nothing) => Progress::Done,
            Ok(Served::Something) => Progress::More,
            Ok(Served::Notify) => {
                let vector = queue.vector;
                self.notify(&mut registers, vector, ISR_QUEUE);
                Progress::More
            }
            Err(error) => {
                tracing::debug!("virtio {}: {error}", self.device.identity().name);
                let effects = registers.stop();
                self.apply(&mut registers, effects);
                Progress::Done
            }
        }
    }

    fn apply(&self, registers: &mut Registers, effects: WriteEffects) {
        if effects.notify_driver {
            let vector = registers.config_vector;
            self.notify(registers, vector, ISR_CONFIG);
        }
        if effects.kick_queues {
            (0..registers.queue_count()).for_each(|queue| self.ring(QueueIndex(queue)));
        }
    }

    /// Notifies the driver by the vector, or by ISR status without MSI-X, which the driver must poll (virtio 1.2
    /// §4.1.4.5.1, §4.1.5.3). Configuration changes always set ISR status.
    fn notify(&self, registers: &mut Registers, vector: u16, event: u8) {
        let has_msix = self.msix.vectors() > 0;
        if !has_msix || event == ISR_CONFIG {
            registers.isr |= event;
        }
        if has_msix && vector != NO_VECTOR {
            self.msix.trigger(Vector(vector.into()));
        }
    }

    /// The device's part of the report.
    #[must_use]
    pub fn report(&self) -> Value {
        let identity = self.device.identity();
        let status = self.look(|registers| registers.status());
        let mut fields = self.device.report();
        fields.insert("virtio".into(), identity.name.into());
        fields.insert("device_status".into(), status.into());
        fields.insert("software_msix".into(), report::software(&self.msix));
        Value::Object(fields)
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
