//! A virtio device as its driver configures it (virtio 1.2 §2.1, §2.2, §3.1): status, features, queues.
//!
//! Plain state: no I/O, no lock, no log. A driver that does things in another order than it must, or writes what makes
//! no sense, has its write ignored, or its device stopped until it is reset; nothing else happens. What must follow a
//! write beside the change of state is its [`WriteEffects`].

use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::GuestMemoryMmap;

use super::queue::{Areas, EventSuppression, NO_VECTOR, QueueIndex, QueueSize, VirtQueue};

/// Status: the driver drives the device (virtio 1.2 §2.1).
pub const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
/// Status: the driver has chosen its features, and the device can work with them.
pub const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
/// Status: the device has stopped until it is reset.
pub const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
/// Status bits that the driver sets and that mean nothing to the device.
const NOTES: u8 = (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FAILED) as u8;

/// Feature: this is no legacy device. A driver has to take it.
pub const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
/// Feature: a queue can be reset by itself.
pub const RING_RESET: u64 = 1 << VIRTIO_F_RING_RESET;
/// Feature: event suppression by ring indices.
pub const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
/// Features of every device: what the virtio-queue crate can do.
pub const COMMON_FEATURES: u64 = VERSION_1 | RING_RESET | EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// ISR status: a queue has used buffers (virtio 1.2 §4.1.4.5).
pub const ISR_QUEUE: u8 = 1 << 0;
/// ISR status: the configuration, or the device's need of a reset, has changed.
pub const ISR_CONFIG: u8 = 1 << 1;

/// What a driver's write asks for beside the change of the registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct WriteEffects {
    /// The queues may have requests that no doorbell was rung for.
    pub kick_queues: bool,
    /// The driver has to hear that the device needs a reset.
    pub notify_driver: bool,
}

/// The registers of one device.
#[derive(Debug)]
pub struct Registers {
    offered: u64,
    taken: u64,
    status: u8,
    /// ISR status; reading it clears it.
    pub isr: u8,
    /// The MSI-X vector of configuration changes, or [`NO_VECTOR`].
    pub config_vector: u16,
    /// Which 32 bits of the features the driver reads.
    pub offered_select: u32,
    /// Which 32 bits of the features the driver writes.
    pub taken_select: u32,
    /// The queue whose registers the driver accesses.
    pub queue_select: u16,
    /// Whether the bus lets the device access memory, which interrupts are too (PCIe r6 §7.5.1.1.3).
    pub bus_master: bool,
    queues: Vec<VirtQueue>,
}

impl Registers {
    /// A device that offers these features beside the [`COMMON_FEATURES`], after power-on.
    #[must_use]
    pub fn new(features: u64, queues: &[QueueSize]) -> Self {
        Self {
            offered: features | COMMON_FEATURES,
            taken: 0,
            status: 0,
            isr: 0,
            config_vector: NO_VECTOR,
            offered_select: 0,
            taken_select: 0,
            queue_select: 0,
            bus_master: false,
            queues: queues.iter().map(|most| VirtQueue::new(*most)).collect(),
        }
    }

    /// A reset of the device (virtio 1.2 §2.4); what the bus says of it stays.
    fn reset(&mut self) {
        let most = std::mem::take(&mut self.queues);
        *self = Self { offered: self.offered, bus_master: self.bus_master, ..Self::new(0, &[]) };
        self.queues = most;
        self.queues.iter_mut().for_each(VirtQueue::reset);
    }

    /// Device status.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.status
    }

    /// The driver writes the device status. Zero resets; otherwise bits are only ever set (virtio 1.2 §2.1.1), the
    /// device's own not at all, FEATURES_OK if the features can be worked with, DRIVER_OK once that is set.
    pub fn write_status(&mut self, value: u8) -> WriteEffects {
        if value == 0 {
            self.reset();
            return WriteEffects::default();
        }
        let before = self.status;
        self.status |= value & NOTES;
        if self.taken & !self.offered == 0 && self.taken & VERSION_1 != 0 {
            self.status |= value & FEATURES_OK;
        }
        if self.status & FEATURES_OK != 0 {
            self.status |= value & DRIVER_OK;
        }
        WriteEffects { kick_queues: self.status & !before & DRIVER_OK != 0, notify_driver: false }
    }

    /// Whether the device may look at its queues (virtio 1.2 §3.1.1).
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.status & DRIVER_OK != 0 && self.status & NEEDS_RESET == 0 && self.bus_master
    }

    /// The driver has broken something: the device stops until it is reset (virtio 1.2 §2.1.2).
    pub fn stop(&mut self) -> WriteEffects {
        let stopped = self.status & NEEDS_RESET == 0;
        self.status |= NEEDS_RESET;
        WriteEffects { kick_queues: false, notify_driver: stopped && self.status & DRIVER_OK != 0 }
    }

    /// 32 bits of the features that the device offers.
    #[must_use]
    pub fn offered(&self) -> u32 {
        half(self.offered, self.offered_select)
    }

    /// 32 bits of the features that the driver has taken.
    #[must_use]
    pub fn taken(&self) -> u32 {
        half(self.taken, self.taken_select)
    }

    /// The driver takes features, until it has set FEATURES_OK (virtio 1.2 §3.1.1).
    pub fn take(&mut self, value: u32) {
        let value = u64::from(value);
        if self.status & FEATURES_OK == 0 {
            match self.taken_select {
                0 => self.taken = self.taken & !u64::from(u32::MAX) | value,
                1 => self.taken = self.taken & u64::from(u32::MAX) | value << 32,
                // There are no features there to take.
                _ => {}
            }
        }
    }

    /// How events are suppressed on the rings.
    #[must_use]
    pub fn suppression(&self) -> EventSuppression {
        if self.taken & EVENT_IDX == 0 { EventSuppression::Flags } else { EventSuppression::Indices }
    }

    /// How many queues there are.
    #[must_use]
    pub fn queue_count(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    /// A queue.
    #[must_use]
    pub fn queue(&self, index: QueueIndex) -> Option<&VirtQueue> {
        self.queues.get(usize::from(index.0))
    }

    /// A queue, to change it.
    pub fn queue_mut(&mut self, index: QueueIndex) -> Option<&mut VirtQueue> {
        self.queues.get_mut(usize::from(index.0))
    }

    /// The queue that the driver has selected.
    #[must_use]
    pub fn selected(&self) -> Option<&VirtQueue> {
        self.queue(QueueIndex(self.queue_select))
    }

    /// The same, to change it.
    pub fn selected_mut(&mut self) -> Option<&mut VirtQueue> {
        self.queue_mut(QueueIndex(self.queue_select))
    }

    /// The driver changes where the selected queue is.
    pub fn set_areas(&mut self, change: impl FnOnce(&mut Areas)) {
        if let Some(queue) = self.selected_mut() {
            let mut areas = queue.areas();
            change(&mut areas);
            queue.set_areas(areas);
        }
    }

    /// The driver enables the selected queue. One that cannot be used stops the device.
    pub fn enable_queue(&mut self, memory: &GuestMemoryMmap) -> WriteEffects {
        match self.selected_mut().map(|queue| queue.enable(memory)) {
            None => WriteEffects::default(),
            Some(Ok(())) => WriteEffects { kick_queues: true, notify_driver: false },
            Some(Err(_)) => self.stop(),
        }
    }

    /// The driver resets the selected queue, if the two have agreed that it may (virtio 1.2 §2.6.1).
    pub fn reset_queue(&mut self) {
        if self.status & FEATURES_OK != 0
            && self.taken & RING_RESET != 0
            && let Some(queue) = self.selected_mut()
        {
            queue.reset();
        }
    }
}

/// The low or the high half of a set of features; the rest does not exist.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}
