//! The control queue (virtio 1.2 §5.1.6.5): how many pairs of queues are used, and the offloads of received packets.
//!
//! A request is a class, a command and its data; the device writes one byte. A request that it does not know, or whose data
//! is invalid, gets VIRTIO_NET_ERR.

use std::sync::atomic::Ordering;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, VIRTIO_NET_CTRL_MQ,
    VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};

use super::Net;
use super::features::{self, CTRL_GUEST_OFFLOADS, MQ};
use crate::virtio::chain::Chain;
use crate::virtio::live_queue::LiveQueue;

const MQ_CLASS: u8 = VIRTIO_NET_CTRL_MQ as u8;
const VQ_PAIRS_SET: u8 = VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET as u8;
const OFFLOADS_CLASS: u8 = VIRTIO_NET_CTRL_GUEST_OFFLOADS as u8;
const OFFLOADS_SET: u8 = VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET as u8;

/// The device's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ack {
    Ok = VIRTIO_NET_OK as isize,
    Error = VIRTIO_NET_ERR as isize,
}

/// Serves all requests of a control queue.
pub(super) fn serve(net: &Net, queue: &mut LiveQueue, features: u64) {
    while let Some(chain) = queue.pop() {
        let ack = if chain.fault().is_none() { command(net, queue, &chain, features) } else { Ack::Error };
        if ack == Ack::Error {
            net.control_errors.fetch_add(1, Ordering::Relaxed);
        }
        let is_written = chain.writable().write(queue.memory(), 0, &[ack as u8]).is_ok();
        if !is_written && chain.fault().is_none() {
            queue.count_invalid();
        }
        queue.complete(chain, is_written.into());
    }
}

fn command(net: &Net, queue: &LiveQueue, chain: &Chain, features: u64) -> Ack {
    let mut header = [0; 2];
    let read = |offset, data: &mut [u8]| chain.readable().read(queue.memory(), offset, data).is_ok();
    if !read(0, &mut header) {
        return Ack::Error;
    }
    let done = match header {
        [MQ_CLASS, VQ_PAIRS_SET] if features & MQ != 0 => {
            let mut pairs = [0; 2];
            let pairs = read(2, &mut pairs).then(|| u16::from_le_bytes(pairs));
            pairs.is_some_and(|pairs| net.use_pairs(pairs))
        }
        [OFFLOADS_CLASS, OFFLOADS_SET] if features & CTRL_GUEST_OFFLOADS != 0 => {
            let mut offloads = [0; 8];
            let offloads = read(2, &mut offloads).then(|| u64::from_le_bytes(offloads));
            let allowed = features::guest_offloads(features);
            offloads.is_some_and(|offloads| offloads & !allowed == 0 && net.set_offloads(offloads))
        }
        _ => false,
    };
    if done { Ack::Ok } else { Ack::Error }
}
