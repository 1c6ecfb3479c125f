//! The entropy device (virtio 1.2 §5.4): one queue, whose buffers are filled by the host's getrandom.
//!
//! A request gets at most [`MOST_BYTES`], even if it has room for more. A request without a writable buffer in RAM
//! gets no bytes. The used length tells the driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::{Map, Value};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::chain::Chain;
use super::device::{Device, Identity, LaneModel, Model};
use super::handler::Handler;
use super::lane::Lane;
use super::queue::{QueueIndex, QueueSize};
use crate::error::{Context, Result};

/// Maximum bytes for a request: some hundred microseconds of host CPU time.
pub const MOST_BYTES: u32 = 64 << 10;

/// Bytes that getrandom returns without interruption (random(7)).
const AT_ONCE: usize = 256;

const QUEUES: [QueueSize; 1] = [QueueSize::two_to_the(6)];

/// The device.
#[derive(Debug, Default)]
pub struct Rng {
    requests: AtomicU64,
    bytes: AtomicU64,
    empty: AtomicU64,
}

impl Rng {
    /// Creates the device. Blocks until the host's generator is seeded. Later requests never block.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if getrandom fails.
    pub fn model() -> Result<Model> {
        getrandom(&mut [0; 1][..], GetRandomFlags::empty()).context("drawing random bytes (getrandom)")?;
        let device = Arc::new(Self::default());
        let handler = Box::new(Requests(Arc::clone(&device)));
        Ok(Model { device, lanes: vec![LaneModel { queues: vec![QueueIndex(0)], handler }] })
    }

    /// Fills the part of a buffer that lies in RAM, and returns its length.
    fn fill(memory: &GuestMemoryMmap, start: GuestAddress, len: u32) -> u32 {
        let mut filled = 0u32;
        while let Some(left) = len.checked_sub(filled).filter(|left| *left > 0) {
            let mut random = [0; AT_ONCE];
            let wanted = random.get_mut(..left.min(AT_ONCE as u32) as usize).unwrap_or_default();
            let Ok(drawn) = getrandom(&mut *wanted, GetRandomFlags::empty()) else { break };
            let drawn = wanted.get(..drawn).unwrap_or_default();
            let Some(to) = start.0.checked_add(filled.into()) else { break };
            let placed = memory.write(drawn, GuestAddress(to)).unwrap_or(0);
            filled = filled.saturating_add(u32::try_from(placed).unwrap_or(0));
            if placed == 0 {
                break;
            }
        }
        filled
    }

    /// Fills the buffers of a request and returns the number of bytes.
    fn serve(&self, memory: &GuestMemoryMmap, chain: &Chain) -> u32 {
        let mut written = 0u32;
        for (start, len) in chain.writable().iter() {
            let wanted = len.min(MOST_BYTES.saturating_sub(written));
            let filled = Self::fill(memory, start, wanted);
            written = written.saturating_add(filled);
            // The used length covers contiguous bytes, so no byte may be skipped.
            if filled < len {
                break;
            }
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(written.into(), Ordering::Relaxed);
        self.empty.fetch_add(u64::from(written == 0), Ordering::Relaxed);
        written
    }
}

impl Device for Rng {
    fn identity(&self) -> Identity {
        // Class 0xff: PCI defines no class for entropy sources.
        Identity { id: VIRTIO_ID_RNG as u16, name: "rng", class: 0xff_0000, label: None }
    }

    fn queues(&self) -> &[QueueSize] {
        &QUEUES
    }

    fn report(&self) -> Map<String, Value> {
        [("requests", &self.requests), ("bytes", &self.bytes), ("empty_requests", &self.empty)]
            .map(|(name, count)| (name.to_owned(), count.load(Ordering::Relaxed).into()))
            .into_iter()
            .collect()
    }
}

/// The handler of the only queue.
struct Requests(Arc<Rng>);

impl Handler for Requests {
    fn queue_ready(&mut self, lane: &mut Lane, queue: QueueIndex) {
        let Some(queue) = lane.queue(queue) else { return };
        while let Some(chain) = queue.pop() {
            let written = self.0.serve(queue.memory(), &chain);
            queue.complete(chain, written);
        }
    }
}
