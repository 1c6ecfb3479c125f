//! A device: its model, its interrupts, and the registers that every device has.
//!
//! Owns the device's lock. Triggers, writes to slots and resets hold it. After a slot is freed or the device is
//! reset, no earlier trigger takes effect.

use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value};
use vm_msi::Vector;
use vm_msi::access::lanes;
use vm_msi::domain::BusMaster;

use super::bar_slots::{Triggered, trigger};
use super::interrupts::Interrupts;
use super::registers::{
    CONTROL, CONTROL_RESET, DROPPED, IDENTIFICATION, MEMORY_SLOTS, QUEUES, REFUSED, SLOTS, TRIGGERS, VERSION,
};

/// The MSI-X vector for refused writes.
const REFUSALS: Vector = Vector(0);

/// A device model. Its methods are called under the device's lock.
pub trait Model: Send + 'static {
    /// The identification register: four letters.
    const IDENTIFICATION: [u8; 4];
    /// Its name in reports and messages.
    const NAME: &'static str;

    /// Reads a register of the model, at an offset in bytes. An unknown register reads 0.
    fn read(&self, register: u64, interrupts: &Interrupts) -> u32;

    /// Writes a register of the model.
    fn write(&mut self, register: u64, value: u32, cx: &mut ModelContext<'_>);

    /// Resets the registers to their power-on values.
    fn reset(&mut self);

    /// A timer that is readable while [`Model::on_timer`] has work. It lives as long as the model.
    fn timer_fd(&self) -> Option<RawFd> {
        None
    }

    /// Handles an expired timer. May be called at any time.
    fn on_timer(&mut self, _now: Instant, _signals: &mut ModelContext<'_>) {}

    /// The model's part of the report.
    fn report(&self) -> Map<String, Value>;
}

/// The interrupts, counters and bus master state that a model uses.
pub struct ModelContext<'a> {
    interrupts: &'a Interrupts,
    counters: &'a mut Counters,
    bus_master: BusMaster,
}

impl ModelContext<'_> {
    /// The interrupts.
    #[must_use]
    pub fn interrupts(&self) -> &Interrupts {
        self.interrupts
    }

    /// Whether Bus Master Enable is set.
    #[must_use]
    pub fn bus_master(&self) -> BusMaster {
        self.bus_master
    }

    /// Triggers a slot in BAR 2.
    pub fn trigger_slot(&mut self, slot: Vector) {
        let triggered = self.interrupts.slots.trigger(slot);
        self.counters.count(triggered);
    }

    /// Triggers a slot in guest memory, if there are any.
    pub fn trigger_memory_slot(&mut self, slot: Vector) {
        if let Some(slots) = &self.interrupts.memory_slots {
            let triggered = trigger(slots, slot);
            self.counters.count(triggered);
        }
    }

    /// Triggers an MSI-X vector, if the device has MSI-X.
    pub fn trigger_msix(&mut self, vector: Vector) {
        if let Some(msix) = &self.interrupts.msix {
            msix.trigger(vector);
        }
    }

    /// Counts a refused write and signals it to the driver.
    pub fn refuse(&mut self) {
        self.counters.refused = self.counters.refused.wrapping_add(1);
        self.trigger_msix(REFUSALS);
    }
}

/// Counters that a driver reads. They wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    triggers: u32,
    dropped: u32,
    refused: u32,
}

impl Counters {
    fn count(&mut self, triggered: Triggered) {
        self.triggers = self.triggers.wrapping_add(1);
        if triggered == Triggered::Dropped {
            self.dropped = self.dropped.wrapping_add(1);
        }
    }
}

struct State<M> {
    model: M,
    counters: Counters,
    bus_master: BusMaster,
}

/// A device.
pub struct Device<M> {
    interrupts: Interrupts,
    state: Mutex<State<M>>,
}

impl<M: Model> Device<M> {
    /// A device after power-on.
    #[must_use]
    pub fn new(model: M, interrupts: Interrupts) -> Self {
        let state = State { model, counters: Counters::default(), bus_master: BusMaster::Disabled };
        Self { interrupts, state: Mutex::new(state) }
    }

    /// The device's interrupts.
    #[must_use]
    pub fn interrupts(&self) -> &Interrupts {
        &self.interrupts
    }

    /// Calls the model's timer handler.
    pub fn on_timer(&self, now: Instant) {
        let State { model, counters, bus_master } = &mut *self.state();
        let bus_master = *bus_master;
        model.on_timer(now, &mut ModelContext { interrupts: &self.interrupts, counters, bus_master });
    }

    /// The model's timer, if any.
    #[must_use]
    pub fn timer_fd(&self) -> Option<RawFd> {
        self.state().model.timer_fd()
    }

    /// Reads the register page.
    pub fn read_registers(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let state = &*self.state();
        for lane in lanes(offset, data.len()) {
            lane.read(self.register(state, lane.dword.saturating_mul(4)), data);
        }
    }

    /// Writes the register page, lowest register first.
    pub fn write_registers(&self, offset: u64, data: &[u8]) {
        let state = &mut *self.state();
        for lane in lanes(offset, data.len()) {
            let register = lane.dword.saturating_mul(4);
            let value = lane.merge(self.register(state, register), data);
            match register {
                CONTROL if value & CONTROL_RESET != 0 => self.reset(state),
                _ => {
                    let State { model, counters, bus_master } = state;
                    let bus_master = *bus_master;
                    model.write(
                        register,
                        value,
                        &mut ModelContext { interrupts: &self.interrupts, counters, bus_master },
                    );
                }
            }
        }
    }

    /// Reads the slots in BAR 2.
    pub fn read_slots(&self, offset: u64, data: &mut [u8]) {
        self.interrupts.slots.read(offset, data);
    }

    /// Writes the slots in BAR 2.
    pub fn write_slots(&self, offset: u64, data: &[u8]) {
        let _state = self.state();
        self.interrupts.slots.write(offset, data);
    }

    /// A reset by the driver: everything except MSI-X, which belongs to the function.
    fn reset(&self, state: &mut State<M>) {
        self.interrupts.reset_slots();
        state.model.reset();
        state.counters = Counters::default();
    }

    /// A function level reset. Bus Master Enable is clear afterwards.
    pub fn reset_function(&self) {
        self.set_bus_master(BusMaster::Disabled);
        self.reset(&mut self.state());
        self.interrupts.reset_msix();
        self.interrupts.slots.quiesce();
    }

    /// Stops all interrupts and releases host resources.
    pub fn release(&self) {
        self.set_bus_master(BusMaster::Disabled);
        let _state = self.state();
        self.interrupts.reset_slots();
        self.interrupts.slots.quiesce();
    }

    /// Retries refused host calls.
    pub fn retry(&self) {
        let _state = self.state();
        self.interrupts.retry();
    }

    /// Sets Bus Master Enable.
    pub fn set_bus_master(&self, bus_master: BusMaster) {
        let mut state = self.state();
        if state.bus_master != bus_master {
            state.bus_master = bus_master;
            self.interrupts.set_bus_master(bus_master);
        }
    }

    /// The device's part of the report.
    #[must_use]
    pub fn report(&self) -> Value {
        let state = self.state();
        let Counters { triggers, dropped, refused } = state.counters;
        let mut report = state.model.report();
        report.insert("ims".into(), M::NAME.into());
        report.insert("triggers".into(), triggers.into());
        report.insert("dropped_triggers".into(), dropped.into());
        report.insert("refused_writes".into(), refused.into());
        report.extend(self.interrupts.report());
        Value::Object(report)
    }

    fn register(&self, state: &State<M>, register: u64) -> u32 {
        let (slots, memory_slots) = (self.interrupts.slot_count(), self.interrupts.memory_slot_count());
        match register {
            IDENTIFICATION => u32::from_le_bytes(M::IDENTIFICATION),
            VERSION => 1,
            SLOTS => slots,
            MEMORY_SLOTS => memory_slots,
            QUEUES => slots.saturating_add(memory_slots),
            TRIGGERS => state.counters.triggers,
            DROPPED => state.counters.dropped,
            REFUSED => state.counters.refused,
            register => state.model.read(register, &self.interrupts),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
