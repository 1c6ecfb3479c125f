//! The features and the configuration of a disk (virtio 1.2 §5.2.3, §5.2.4).

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};

use super::QUEUE_SIZE;
use super::image::{DiskImage, ImageAccess, SECTOR};
use crate::virtio::device_config::DeviceConfig;

/// Bytes of `struct virtio_blk_config` up to `write_zeroes_may_unmap` and its padding.
const BYTES: usize = 60;
/// Offset of `writeback`, the only field that the driver writes.
pub(super) const WRITEBACK: usize = 32;

/// log2 of sectors in a page of the host's page cache, which writes should not split.
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;
/// Sectors in such a page.
const PAGE_SECTORS: u32 = 1 << PHYSICAL_BLOCK_EXPONENT;

/// Sectors of one discard: 1 GiB.
pub(super) const MOST_DISCARD_SECTORS: u32 = 1 << 21;
/// Sectors of one write of zeroes: 16 MiB, which may be written as data.
pub(super) const MOST_ZEROES_SECTORS: u32 = 1 << 15;

/// Buffers of a request besides its header and its status.
const MOST_SEGMENTS: u32 = QUEUE_SIZE.get() as u32 - 2;

/// The device-specific features.
pub(super) fn features(image: &DiskImage, queues: usize) -> u64 {
    let always = [VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_FLUSH];
    let writing = [VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES];
    let (writing, reading) = match image.access() {
        ImageAccess::ReadWrite => (&writing[..], None),
        ImageAccess::ReadOnly => (&[][..], Some(&VIRTIO_BLK_F_RO)),
    };
    let queues = (queues > 1).then_some(&VIRTIO_BLK_F_MQ);
    let features = always.iter().chain(writing).chain(reading).chain(queues);
    features.fold(0, |features, bit| features | 1u64.wrapping_shl(*bit))
}

/// The configuration.
pub(super) fn config(image: &DiskImage, queues: u16) -> DeviceConfig {
    let mut bytes = Vec::with_capacity(BYTES);
    let mut field = |value: &[u8]| bytes.extend_from_slice(value);
    field(&image.sectors().to_le_bytes());
    // size_max: not offered.
    field(&0u32.to_le_bytes());
    field(&MOST_SEGMENTS.to_le_bytes());
    // Cylinders, heads and sectors: not offered.
    field(&[0; 4]);
    field(&(SECTOR as u32).to_le_bytes());
    // Topology: no offset, any size is good, no optimal size.
    field(&[PHYSICAL_BLOCK_EXPONENT, 0, 1, 0, 0, 0, 0, 0]);
    field(&[1, 0]);
    field(&queues.to_le_bytes());
    for value in [MOST_DISCARD_SECTORS, 1, PAGE_SECTORS, MOST_ZEROES_SECTORS, 1] {
        field(&value.to_le_bytes());
    }
    // A write of zeroes may deallocate.
    field(&[1, 0, 0, 0]);
    let writable = match image.access() {
        ImageAccess::ReadWrite => WRITEBACK..WRITEBACK + 1,
        ImageAccess::ReadOnly => 0..0,
    };
    DeviceConfig::new(bytes, writable)
}
