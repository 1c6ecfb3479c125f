//! A virtio device as its driver configures it, and the signals between vCPUs and lanes.
//!
//! Owns the lock of the registers. It is held for a register access, never during host I/O. A write changes plain state;
//! each lane then compares its queues with the registers, and starts and stops them ([`super::lane_loop`]).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use vm_memory::GuestMemoryMmap;
use vm_msi::domain::BusMaster;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::Device;
use super::interrupts::Interrupts;
use super::live_queue::{QueueState, Ring};
use super::queue::{NO_VECTOR, QueueError, QueueIndex, VirtQueue};
use super::registers::{DRIVER_OK, ISR_CONFIG, ISR_QUEUE, Registers, WriteEffects};

/// A virtio device.
pub struct Transport {
    device: Arc<dyn Device>,
    memory: GuestMemoryMmap,
    /// The doorbell of each queue.
    doorbells: Vec<EventFd>,
    /// Wakes each lane to compare its queues with the registers.
    lanes: Vec<EventFd>,
    registers: Mutex<Registers>,
    /// Bus Master Enable, as the lanes read it without the lock.
    bus_master: Arc<AtomicBool>,
    /// The lanes are to end.
    is_ending: AtomicBool,
    interrupts: Interrupts,
}

impl Transport {
    /// A device at power-on, with this number of lanes.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new(
        device: Arc<dyn Device>,
        lanes: usize,
        memory: GuestMemoryMmap,
        interrupts: Interrupts,
    ) -> io::Result<Arc<Self>> {
        let eventfd = || EventFd::new(EFD_NONBLOCK);
        let doorbells = device.queues().iter().map(|_| eventfd()).collect::<io::Result<_>>()?;
        let lanes = (0..lanes).map(|_| eventfd()).collect::<io::Result<_>>()?;
        let registers = Mutex::new(Registers::new(device.features(), device.queues()));
        // The Command register's value at power-on.
        interrupts.set_bus_master(BusMaster::Disabled);
        let (bus_master, is_ending) = (Arc::default(), AtomicBool::new(false));
        let transport =
            Self { device, memory, doorbells, lanes, registers, bus_master, is_ending, interrupts };
        let transport = Arc::new(transport);
        if let Some(config) = transport.device.config() {
            config.connect(Arc::downgrade(&transport));
        }
        Ok(transport)
    }

    /// The device model.
    #[must_use]
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// Guest memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Its MSI-X.
    #[must_use]
    pub fn interrupts(&self) -> &Interrupts {
        &self.interrupts
    }

    /// Its queues' doorbells, in order.
    #[must_use]
    pub fn doorbells(&self) -> &[EventFd] {
        &self.doorbells
    }

    /// The eventfd that wakes a lane.
    #[must_use]
    pub fn lane(&self, lane: usize) -> Option<&EventFd> {
        self.lanes.get(lane)
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
            self.interrupts.set_bus_master(bus_master);
            let is_enabled = bus_master == BusMaster::Enabled;
            let sync_lanes = is_enabled != registers.bus_master;
            registers.bus_master = is_enabled;
            self.bus_master.store(is_enabled, Ordering::Release);
            WriteEffects { sync_lanes, ..WriteEffects::default() }
        });
    }

    /// Rings a queue's doorbell. An absent queue is ignored.
    pub fn ring(&self, queue: QueueIndex) {
        if let Some(doorbell) = self.doorbells.get(usize::from(queue.0)) {
            signal(doorbell);
        }
    }

    /// A write of the device-specific configuration.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        let registers = self.registers();
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if self.device.config().is_some_and(|config| config.write(at, data)) {
            self.device.config_written(offset, data.len());
        }
        drop(registers);
    }

    /// Notifies the driver that the device-specific configuration has changed, if it drives the device.
    pub fn config_changed(&self) {
        let mut registers = self.registers();
        if registers.status() & DRIVER_OK != 0 {
            self.notify_config(&mut registers);
        }
    }

    /// Takes a live queue's ring, for its lane, with the accepted features.
    pub(super) fn take(&self, index: QueueIndex) -> Option<(Ring, Registered)> {
        let mut registers = self.registers();
        let (features, suppression) = (registers.accepted_features(), registers.suppression());
        if !registers.is_live() {
            return None;
        }
        let queue = registers.queue_mut(index)?;
        let state = Arc::clone(queue.state());
        Some((queue.take()?, Registered { features, suppression, state }))
    }

    /// A lane has dropped a queue's ring.
    pub(super) fn release(&self, index: QueueIndex) {
        if let Some(queue) = self.registers().queue_mut(index) {
            queue.release();
        }
    }

    /// Stops the device until its reset, unless the queue was reset since.
    pub(super) fn fail(&self, index: QueueIndex, generation: u64, error: &QueueError) {
        tracing::debug!("virtio {}: queue {}: {error}", self.device.identity().name, index.0);
        self.change(|registers, _| {
            let is_current = registers.queue(index).and_then(VirtQueue::generation) == Some(generation);
            if is_current { registers.stop() } else { WriteEffects::default() }
        });
    }

    /// Notifies the driver of used buffers by the queue's vector, or by ISR status without MSI-X, which the driver must
    /// poll (virtio 1.2 §4.1.4.5.1).
    pub(super) fn notify_queue(&self, state: &QueueState) {
        if !self.interrupts.is_enabled() {
            self.registers().isr |= ISR_QUEUE;
        } else if let Some(vector) = state.vector() {
            self.interrupts.trigger(vector);
        }
    }

    /// Notifies the driver of a change of the configuration or of the status. It always sets ISR status (§4.1.5.3).
    fn notify_config(&self, registers: &mut Registers) {
        registers.isr |= ISR_CONFIG;
        if self.interrupts.is_enabled() && registers.config_vector != NO_VECTOR {
            self.interrupts.trigger(registers.config_vector);
        }
    }

    fn apply(&self, registers: &mut Registers, effects: WriteEffects) {
        if effects.is_reset {
            if let Some(config) = self.device.config() {
                config.reset();
            }
            self.device.reset();
        }
        if effects.notify_driver {
            self.notify_config(registers);
        }
        if effects.sync_lanes {
            self.lanes.iter().for_each(signal);
        }
    }

    /// Wakes a lane if the host has refused to deliver an interrupt. The lane tries again after a while.
    pub fn retry_later(&self) {
        if self.interrupts.has_failed()
            && let Some(lane) = self.lanes.first()
        {
            signal(lane);
        }
    }

    /// Ends the lanes, when no request is in flight.
    pub fn end(&self) {
        self.is_ending.store(true, Ordering::Release);
        self.lanes.iter().for_each(signal);
    }

    /// Whether the lanes are to end.
    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    pub(super) fn bus_master(&self) -> &Arc<AtomicBool> {
        &self.bus_master
    }

    /// The device's part of the report.
    #[must_use]
    pub fn report(&self) -> Value {
        let identity = self.device.identity();
        let (status, queues) = self.look(|registers| {
            let queues = (0..registers.queue_count()).filter_map(|index| registers.queue(QueueIndex(index)));
            let queues: Vec<_> =
                queues.map(|queue| queue.state().report(queue.size(), queue.is_enabled())).collect();
            (registers.status(), queues)
        });
        let mut fields = self.device.report();
        fields.insert("virtio".into(), identity.name.into());
        if let Some(label) = identity.label {
            fields.insert("id".into(), label.into());
        }
        fields.insert("device_status".into(), status.into());
        fields.insert("queues".into(), queues.into());
        let (name, msix) = self.interrupts.report();
        fields.insert(name.into(), msix);
        Value::Object(fields)
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The registers' state at the time when a lane takes a ring.
pub(super) struct Registered {
    pub(super) features: u64,
    pub(super) suppression: super::queue::EventSuppression,
    pub(super) state: Arc<QueueState>,
}

fn signal(eventfd: &EventFd) {
    // The write fails only if the counter is full, which is readable, too.
    let _ = eventfd.write(1);
}
