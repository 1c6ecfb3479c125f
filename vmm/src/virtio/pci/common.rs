//! The common configuration structure (virtio 1.2 §4.1.4.3).
//!
//! An access may have any offset and width. A partial access changes a part of a register, and a wide one accesses
//! several registers, lowest first. Offsets without a register read 0 and ignore writes.

use vm_memory::GuestMemoryMmap;

use crate::pci::overlap;
use crate::virtio::queue::{NO_VECTOR, VirtQueue};
use crate::virtio::registers::{Registers, WriteEffects};

/// Bytes of the structure, up to `queue_reset`.
pub const BYTES: u32 = 0x3c;

#[derive(Clone, Copy, Debug)]
enum Field {
    DeviceFeatureSelect,
    DeviceFeature,
    DriverFeatureSelect,
    DriverFeature,
    ConfigMsixVector,
    NumQueues,
    DeviceStatus,
    ConfigGeneration,
    QueueSelect,
    QueueSize,
    QueueMsixVector,
    QueueEnable,
    QueueNotifyOff,
    QueueDesc,
    QueueDriver,
    QueueDevice,
    QueueNotifyData,
    QueueReset,
}

use Field::{
    ConfigGeneration, ConfigMsixVector, DeviceFeature, DeviceFeatureSelect, DeviceStatus, DriverFeature,
    DriverFeatureSelect, NumQueues, QueueDesc, QueueDevice, QueueDriver, QueueEnable, QueueMsixVector,
    QueueNotifyData, QueueNotifyOff, QueueReset, QueueSelect,
};

/// The registers in order, with their widths in bytes, without gaps.
const FIELDS: [(Field, u64); 18] = [
    (DeviceFeatureSelect, 4),
    (DeviceFeature, 4),
    (DriverFeatureSelect, 4),
    (DriverFeature, 4),
    (ConfigMsixVector, 2),
    (NumQueues, 2),
    (DeviceStatus, 1),
    (ConfigGeneration, 1),
    (QueueSelect, 2),
    (Field::QueueSize, 2),
    (QueueMsixVector, 2),
    (QueueEnable, 2),
    (QueueNotifyOff, 2),
    (QueueDesc, 8),
    (QueueDriver, 8),
    (QueueDevice, 8),
    (QueueNotifyData, 2),
    (QueueReset, 2),
];

/// The registers that an access touches, with the byte ranges in the access and in the register.
fn touched(
    offset: u64,
    len: usize,
) -> impl Iterator<Item = (Field, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut start = 0u64;
    FIELDS.into_iter().filter_map(move |(field, width)| {
        let window = start..start.saturating_add(width);
        start = window.end;
        let (bytes, at) = overlap(offset, len, &window)?;
        let at = usize::try_from(at).ok()?;
        let end = at.checked_add(bytes.len())?;
        Some((field, bytes, at..end))
    })
}

/// Reads. `offset` counts from the start of the structure.
pub fn read(registers: &Registers, config_generation: u8, offset: u64, data: &mut [u8]) {
    data.fill(0);
    for (field, bytes, part) in touched(offset, data.len()) {
        let value = match field {
            ConfigGeneration => config_generation.into(),
            field => value(registers, field),
        };
        let value = value.to_le_bytes();
        if let (Some(to), Some(from)) = (data.get_mut(bytes), value.get(part)) {
            to.copy_from_slice(from);
        }
    }
}

/// Writes. `offset` counts from the start of the structure. `vectors` is the size of the MSI-X table.
pub fn write(
    registers: &mut Registers,
    memory: &GuestMemoryMmap,
    vectors: u16,
    offset: u64,
    data: &[u8],
) -> WriteEffects {
    let mut effects = WriteEffects::default();
    for (field, bytes, part) in touched(offset, data.len()) {
        let mut whole = value(registers, field).to_le_bytes();
        if let (Some(to), Some(from)) = (whole.get_mut(part), data.get(bytes)) {
            to.copy_from_slice(from);
        }
        let more = set(registers, memory, vectors, field, u64::from_le_bytes(whole));
        effects.sync_lanes |= more.sync_lanes;
        effects.notify_driver |= more.notify_driver;
        effects.is_reset |= more.is_reset;
    }
    effects
}

/// The value of a register. Registers of an absent queue read 0.
fn value(registers: &Registers, field: Field) -> u64 {
    let queue = |value: fn(&VirtQueue) -> u64| registers.selected().map_or(0, value);
    match field {
        DeviceFeatureSelect => registers.offered_select.into(),
        DeviceFeature => registers.offered().into(),
        DriverFeatureSelect => registers.accepted_select.into(),
        DriverFeature => registers.accepted().into(),
        ConfigMsixVector => registers.config_vector.into(),
        NumQueues => registers.queue_count().into(),
        DeviceStatus => registers.status().into(),
        QueueSelect => registers.queue_select.into(),
        Field::QueueSize => queue(|queue| queue.size().into()),
        QueueMsixVector => registers.selected().map_or(NO_VECTOR, VirtQueue::vector).into(),
        QueueEnable => queue(|queue| queue.is_enabled().into()),
        // Each queue has a doorbell of its own.
        QueueNotifyOff => registers.selected().map_or(0, |_| registers.queue_select.into()),
        QueueDesc => queue(|queue| queue.areas().descriptors),
        QueueDriver => queue(|queue| queue.areas().driver),
        QueueDevice => queue(|queue| queue.areas().device),
        QueueReset => queue(|queue| queue.is_draining().into()),
        // A notification carries no data. The generation is the configuration's own.
        ConfigGeneration | QueueNotifyData => 0,
    }
}

fn set(
    registers: &mut Registers,
    memory: &GuestMemoryMmap,
    vectors: u16,
    field: Field,
    value: u64,
) -> WriteEffects {
    let (dword, word, byte) = (value as u32, value as u16, value as u8);
    // An invalid vector is not mapped, and reads back as NO_VECTOR (§4.1.5.1.2.1).
    let vector = if word < vectors { word } else { NO_VECTOR };
    match field {
        DeviceFeatureSelect => registers.offered_select = dword,
        DriverFeatureSelect => registers.accepted_select = dword,
        DriverFeature => registers.accept(dword),
        ConfigMsixVector => registers.config_vector = vector,
        DeviceStatus => return registers.write_status(byte),
        QueueSelect => registers.queue_select = word,
        Field::QueueSize => {
            if let Some(queue) = registers.selected_mut() {
                queue.set_size(word);
            }
        }
        QueueMsixVector => {
            if let Some(queue) = registers.selected_mut() {
                queue.set_vector(vector);
                return WriteEffects { sync_lanes: queue.is_enabled(), ..WriteEffects::default() };
            }
        }
        // A driver writes only 1. Only a reset disables a queue.
        QueueEnable if word == 1 => return registers.enable_queue(memory),
        QueueDesc => registers.set_areas(|areas| areas.descriptors = value),
        QueueDriver => registers.set_areas(|areas| areas.driver = value),
        QueueDevice => registers.set_areas(|areas| areas.device = value),
        QueueReset if word == 1 => return registers.reset_queue(),
        QueueEnable | QueueReset | DeviceFeature | NumQueues | ConfigGeneration | QueueNotifyOff
        | QueueNotifyData => {}
    }
    WriteEffects::default()
}
