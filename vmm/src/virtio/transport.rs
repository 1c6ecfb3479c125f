//! A virtio device, put together: its registers, its model, the memory that it works on, and its interrupts.
//!
//! Owns the lock of the registers. What a register access asks for happens under it, and so does serving one request,
//! its notification included: once a reset of the device or of a queue has returned, nothing of before follows.

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

/// Whether a queue may have more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Done,
    More,
}

/// A device between its driver and its model.
pub struct Transport {
    device: Arc<dyn Device>,
    memory: GuestMemoryMmap,
    /// The driver's way to say that a queue has requests, for each queue.
    doorbells: Vec<EventFd>,
    registers: Mutex<Registers>,
    msix: SoftwareMsix,
}

impl Transport {
    /// A device after power-on. `doorbells` are its queues', in order, and do not block.
    #[must_use]
    pub fn new(
        device: Arc<dyn Device>,
        memory: GuestMemoryMmap,
        doorbells: Vec<EventFd>,
        msix: SoftwareMsix,
    ) -> Self {
        let registers = Mutex::new(Registers::new(device.features(), device.queues()));
        // As the Command register is after power-on.
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

    /// Accesses registers, where nothing beside follows from it.
    pub fn look<T>(&self, look: impl FnOnce(&mut Registers) -> T) -> T {
        look(&mut self.registers())
    }

    /// Changes registers, and does what that asks for.
    pub fn change(&self, change: impl FnOnce(&mut Registers, &GuestMemoryMmap) -> WriteEffects) {
        let mut registers = self.registers();
        let asked = change(&mut registers, &self.memory);
        self.follow(&mut registers, asked);
    }

    /// Lets the device access memory and interrupt, or keeps it from both, as the bus says.
    pub fn set_bus_master(&self, bus_master: BusMaster) {
        self.change(|registers, _| {
            self.msix.set_bus_master(bus_master);
            let is_enabled = bus_master == BusMaster::Enabled;
            let kick_queues = is_enabled && !registers.bus_master;
            registers.bus_master = is_enabled;
            WriteEffects { kick_queues, notify_driver: false }
        });
    }

    /// The driver rings a queue's doorbell by an access that came to us. One that it has not does nothing.
    pub fn ring(&self, queue: QueueIndex) {
        if let Some(doorbell) = self.doorbells.get(usize::from(queue.0)) {
            // It refuses only where its counter is full, and then it has been rung.
            let _ = doorbell.write(1);
        }
    }

    /// Serves what waits in a queue: as many requests at most as it has entries. Where there is more, its doorbell has
    /// been rung again, so that a driver that never stops does not keep its caller.
    pub fn serve(&self, queue: QueueIndex) {
        let most = self.look(|registers| registers.queue(queue).map_or(0, |queue| queue.size()));
        for _ in 0..most {
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
                let asked = registers.stop();
                self.follow(&mut registers, asked);
                Progress::Done
            }
        }
    }

    fn follow(&self, registers: &mut Registers, asked: WriteEffects) {
        if asked.notify_driver {
            let vector = registers.config_vector;
            self.notify(registers, vector, ISR_CONFIG);
        }
        if asked.kick_queues {
            (0..registers.queue_count()).for_each(|queue| self.ring(QueueIndex(queue)));
        }
    }

    /// Tells the driver of an event: by its vector, or where MSI-X is off by ISR status, which is then only polled
    /// (virtio 1.2 §4.1.4.5.1, §4.1.5.3). Changes of the configuration show in ISR status in any case.
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
