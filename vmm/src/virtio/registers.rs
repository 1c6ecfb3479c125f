//! The configuration of a virtio device by its driver (virtio 1.2 §2.1, §2.2, §3.1): status, features, queues.
//!
//! Plain state: no I/O, no lock, no log. A write that is invalid or out of order is ignored, or stops the device
//! until its reset. A write returns the necessary actions as [`WriteEffects`].

use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::GuestMemoryMmap;

use super::queue::{Areas, EventSuppression, NO_VECTOR, QueueIndex, QueueSize, VirtQueue};

/// Status: the driver drives the device (virtio 1.2 §2.1).
pub const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
/// Status: the features are negotiated.
pub const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
/// Status: the device has stopped until it is reset.
pub const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
/// Status bits of the driver without effect on the device.
const NOTES: u8 = (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FAILED) as u8;

/// Feature: not a legacy device. A driver must accept it.
pub const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
/// Feature: a single queue can be reset.
pub const RING_RESET: u64 = 1 << VIRTIO_F_RING_RESET;
/// Feature: event suppression by ring indices.
pub const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
/// Features of every device: what the virtio-queue crate can do.
pub const COMMON_FEATURES: u64 = VERSION_1 | RING_RESET | EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// ISR status: a queue has used buffers (virtio 1.2 §4.1.4.5).
pub const ISR_QUEUE: u8 = 1 << 0;
/// ISR status: the configuration has changed, or the device needs a reset.
pub const ISR_CONFIG: u8 = 1 << 1;

/// The actions that a driver's write requires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct WriteEffects {
    /// A queue may have become live, or may have to stop.
    pub sync_lanes: bool,
    /// Notify the driver that the device needs a reset.
    pub notify_driver: bool,
    /// The device was reset.
    pub is_reset: bool,
}

/// The registers of one device.
#[derive(Debug)]
pub struct Registers {
    offered: u64,
    accepted: u64,
    status: u8,
    /// ISR status; reading it clears it.
    pub isr: u8,
    /// The MSI-X vector of configuration changes, or [`NO_VECTOR`].
    pub config_vector: u16,
    /// Which 32 bits of the features the driver reads.
    pub offered_select: u32,
    /// Which 32 bits of the features the driver writes.
    pub accepted_select: u32,
    /// The queue whose registers the driver accesses.
    pub queue_select: u16,
    /// Whether Bus Master Enable is set, which memory accesses and interrupts need (PCIe r6 §7.5.1.1.3).
    pub bus_master: bool,
    queues: Vec<VirtQueue>,
    /// How often a queue was enabled.
    generation: u64,
    /// The status before the last reset, which the driver reads while a queue is drained.
    status_before: u8,
}

/// What a queue should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The number of its enabling, if it is enabled.
    pub generation: Option<u64>,
    /// Whether it is live: enabled, and the device may access it.
    pub is_live: bool,
}

impl Registers {
    /// A device at power-on that offers these features and the [`COMMON_FEATURES`].
    #[must_use]
    pub fn new(features: u64, queues: &[QueueSize]) -> Self {
        Self {
            offered: features | COMMON_FEATURES,
            accepted: 0,
            status: 0,
            isr: 0,
            config_vector: NO_VECTOR,
            offered_select: 0,
            accepted_select: 0,
            queue_select: 0,
            bus_master: false,
            queues: queues.iter().map(|max_size| VirtQueue::new(*max_size)).collect(),
            generation: 0,
            status_before: 0,
        }
    }

    /// Resets the device (virtio 1.2 §2.4). Bus Master Enable is unchanged.
    fn reset(&mut self) {
        *self = Self {
            offered: self.offered,
            bus_master: self.bus_master,
            queues: std::mem::take(&mut self.queues),
            generation: self.generation,
            status_before: self.status(),
            ..Self::new(0, &[])
        };
        self.queues.iter_mut().for_each(VirtQueue::reset);
    }

    /// Device status. After a reset, the driver reads the status from before until no request is in flight (virtio 1.2
    /// §2.4). A driver that does not wait may write new bits meanwhile.
    #[must_use]
    pub fn status(&self) -> u8 {
        let is_draining = self.status == 0 && self.queues.iter().any(VirtQueue::is_draining);
        if is_draining { self.status_before } else { self.status }
    }

    /// Writes the device status. Zero resets the device. Other values only set bits (virtio 1.2 §2.1.1): FEATURES_OK
    /// if the features are valid, and DRIVER_OK after FEATURES_OK. The device's own bits are not writable.
    pub fn write_status(&mut self, value: u8) -> WriteEffects {
        if value == 0 {
            self.reset();
            return WriteEffects { sync_lanes: true, is_reset: true, ..WriteEffects::default() };
        }
        let before = self.status;
        self.status |= value & NOTES;
        if self.accepted & !self.offered == 0 && self.accepted & VERSION_1 != 0 {
            self.status |= value & FEATURES_OK;
        }
        if self.status & FEATURES_OK != 0 {
            self.status |= value & DRIVER_OK;
        }
        let sync_lanes = self.status & !before & DRIVER_OK != 0;
        WriteEffects { sync_lanes, ..WriteEffects::default() }
    }

    /// Whether the device may access its queues (virtio 1.2 §3.1.1).
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.status & DRIVER_OK != 0 && self.status & NEEDS_RESET == 0 && self.bus_master
    }

    /// Stops the device until its reset after a driver error (virtio 1.2 §2.1.2).
    pub fn stop(&mut self) -> WriteEffects {
        let stopped = self.status & NEEDS_RESET == 0;
        self.status |= NEEDS_RESET;
        let notify_driver = stopped && self.status & DRIVER_OK != 0;
        WriteEffects { sync_lanes: stopped, notify_driver, is_reset: false }
    }

    /// 32 bits of the features that the device offers.
    #[must_use]
    pub fn offered(&self) -> u32 {
        half(self.offered, self.offered_select)
    }

    /// 32 bits of the features that the driver has accepted.
    #[must_use]
    pub fn accepted(&self) -> u32 {
        half(self.accepted, self.accepted_select)
    }

    /// Accepts features, until FEATURES_OK is set (virtio 1.2 §3.1.1).
    pub fn accept(&mut self, value: u32) {
        let value = u64::from(value);
        if self.status & FEATURES_OK == 0 {
            match self.accepted_select {
                0 => self.accepted = self.accepted & !u64::from(u32::MAX) | value,
                1 => self.accepted = self.accepted & u64::from(u32::MAX) | value << 32,
                // No features have these numbers.
                _ => {}
            }
        }
    }

    /// All features that the driver has accepted.
    #[must_use]
    pub fn accepted_features(&self) -> u64 {
        self.accepted
    }

    /// The mechanism of notification suppression.
    #[must_use]
    pub fn suppression(&self) -> EventSuppression {
        if self.accepted & EVENT_IDX == 0 { EventSuppression::Flags } else { EventSuppression::Indices }
    }

    /// Number of queues.
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

    /// The selected queue, to change it.
    pub fn selected_mut(&mut self) -> Option<&mut VirtQueue> {
        self.queue_mut(QueueIndex(self.queue_select))
    }

    /// Changes the areas of the selected queue.
    pub fn set_areas(&mut self, change: impl FnOnce(&mut Areas)) {
        if let Some(queue) = self.selected_mut() {
            let mut areas = queue.areas();
            change(&mut areas);
            queue.set_areas(areas);
        }
    }

    /// Enables the selected queue. An invalid queue stops the device.
    pub fn enable_queue(&mut self, memory: &GuestMemoryMmap) -> WriteEffects {
        self.generation = self.generation.saturating_add(1);
        let generation = self.generation;
        match self.selected_mut().map(|queue| queue.enable(memory, generation)) {
            None => WriteEffects::default(),
            Some(Ok(())) => WriteEffects { sync_lanes: true, ..WriteEffects::default() },
            Some(Err(_)) => self.stop(),
        }
    }

    /// Resets the selected queue, if the driver has negotiated it (virtio 1.2 §2.6.1).
    pub fn reset_queue(&mut self) -> WriteEffects {
        if self.status & FEATURES_OK != 0
            && self.accepted & RING_RESET != 0
            && let Some(queue) = self.selected_mut()
        {
            queue.reset();
            return WriteEffects { sync_lanes: true, ..WriteEffects::default() };
        }
        WriteEffects::default()
    }

    /// What a queue should be.
    #[must_use]
    pub fn wanted(&self, index: QueueIndex) -> Wanted {
        let generation = self.queue(index).and_then(VirtQueue::generation);
        Wanted { generation, is_live: generation.is_some() && self.is_live() }
    }
}

/// 32 bits of a feature set. Further bits are 0.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}
