//! Feature bits of the network device (virtio 1.2 §5.1.3), and the roles of its queues, which depend on them (§5.1.2).

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_UFO,
    VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
};

use super::link::Link;
use crate::tap::Offloads;
use crate::virtio::queue::QueueIndex;

/// A packet may be spread over several receive buffers.
pub(super) const MRG_RXBUF: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
/// Received packets may lack their checksum.
pub(super) const GUEST_CSUM: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM;
/// There is a control queue.
pub(super) const CTRL_VQ: u64 = 1 << VIRTIO_NET_F_CTRL_VQ;
/// The driver changes its offloads by the control queue.
pub(super) const CTRL_GUEST_OFFLOADS: u64 = 1 << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS;
/// There are several pairs of queues.
pub(super) const MQ: u64 = 1 << VIRTIO_NET_F_MQ;

/// Offloads of the tap, with the features of both directions that need them.
const OFFLOADS: [(Offloads, u64, u64); 6] = [
    (Offloads::CHECKSUM, GUEST_CSUM, 1 << VIRTIO_NET_F_CSUM),
    (Offloads::TSO4, 1 << VIRTIO_NET_F_GUEST_TSO4, 1 << VIRTIO_NET_F_HOST_TSO4),
    (Offloads::TSO6, 1 << VIRTIO_NET_F_GUEST_TSO6, 1 << VIRTIO_NET_F_HOST_TSO6),
    (Offloads::TSO_ECN, 1 << VIRTIO_NET_F_GUEST_ECN, 1 << VIRTIO_NET_F_HOST_ECN),
    (Offloads::UFO, 1 << VIRTIO_NET_F_GUEST_UFO, 1 << VIRTIO_NET_F_HOST_UFO),
    // The kernel has USO for both versions of IP, or for none.
    (Offloads::USO, 1 << VIRTIO_NET_F_GUEST_USO4 | 1 << VIRTIO_NET_F_GUEST_USO6, 1 << VIRTIO_NET_F_HOST_USO),
];

/// The features of a device with this many pairs of queues.
pub(super) fn offered(link: &dyn Link, pairs: u16) -> u64 {
    let base = MRG_RXBUF | CTRL_VQ | CTRL_GUEST_OFFLOADS | 1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_STATUS;
    let mtu = link.mtu().map_or(0, |_| 1 << VIRTIO_NET_F_MTU);
    let mq = if pairs > 1 { MQ } else { 0 };
    let has = OFFLOADS.iter().filter(|(offload, ..)| link.offloads().contains(*offload));
    has.fold(base | mtu | mq, |all, (_, guest, host)| all | guest | host)
}

/// Features that are offloads of received packets, as the control queue sets them (§5.1.6.5.6.1).
pub(super) fn guest_offloads(features: u64) -> u64 {
    OFFLOADS.iter().fold(0, |all, (_, guest, _)| all | guest) & features
}

/// What the tap may send to a driver with these features.
pub(super) fn tap_offloads(features: u64) -> Offloads {
    let accepted = OFFLOADS.iter().filter(|(_, guest, _)| features & guest == *guest);
    accepted.fold(Offloads::NONE, |all, (offload, ..)| all.union(*offload)).consistent()
}

/// Whether received packets may be larger than the MTU.
pub(super) fn receives_segments(features: u64) -> bool {
    guest_offloads(features) & !GUEST_CSUM != 0
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Receive,
    Transmit,
    Control,
    /// Nothing: the driver has not accepted the feature that the queue belongs to.
    Unused,
}

impl Role {
    /// The role of a queue of a device with this many pairs.
    pub(super) fn of(queue: QueueIndex, pairs: u16, features: u64) -> Self {
        let pairs = if features & MQ == 0 { 1 } else { pairs };
        let control = pairs.saturating_mul(2);
        match queue.0 {
            index if index < control && index % 2 == 0 => Self::Receive,
            index if index < control => Self::Transmit,
            index if index == control && features & CTRL_VQ != 0 => Self::Control,
            _ => Self::Unused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_queue_is_the_third_unless_there_are_more_pairs() {
        let roles = |pairs: u16, features| -> Vec<_> {
            (0..=2 * pairs).map(|index| Role::of(QueueIndex(index), pairs, features)).collect()
        };
        use Role::{Control, Receive, Transmit, Unused};
        assert_eq!(roles(1, CTRL_VQ), [Receive, Transmit, Control]);
        assert_eq!(roles(1, 0), [Receive, Transmit, Unused]);
        assert_eq!(roles(2, CTRL_VQ | MQ), [Receive, Transmit, Receive, Transmit, Control]);
        assert_eq!(roles(2, CTRL_VQ), [Receive, Transmit, Control, Unused, Unused]);
    }

    #[test]
    fn the_tap_sends_what_the_driver_accepts() {
        assert_eq!(tap_offloads(0), Offloads::NONE);
        assert_eq!(tap_offloads(1 << VIRTIO_NET_F_GUEST_TSO4), Offloads::NONE, "without checksums");
        let tso4 = GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO4;
        assert_eq!(tap_offloads(tso4), Offloads::CHECKSUM.union(Offloads::TSO4));
        let half_uso = GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_USO4;
        assert_eq!(tap_offloads(half_uso), Offloads::CHECKSUM);
        assert!(receives_segments(tso4) && !receives_segments(GUEST_CSUM));
        assert_eq!(guest_offloads(tso4 | MQ), tso4);
    }
}
