//! The handler of one queue of a disk: takes requests, passes them to the engine, and answers them.

use std::io;
use std::sync::Arc;

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_ID_BYTES,
};
use vmm_sys_util::epoll::EventSet;

use super::engine::{Engine, Finished};
use super::geometry::WRITEBACK;
use super::operation::{Durability, Iovecs, Kind, Operation};
use super::request::{HEADER, Limits, Request, Status, Unmap, check};
use super::{Disk, QUEUE_SIZE, add};
use crate::error::{Context, Result};
use crate::virtio::chain::Chain;
use crate::virtio::handler::{Handler, Service, Token};
use crate::virtio::lane::Lane;
use crate::virtio::live_queue::LiveQueue;
use crate::virtio::queue::{QueueError, QueueIndex};

const FINISHED: Token = Token(0);

/// A request in flight.
struct InFlight {
    chain: Chain,
    request: Request,
}

/// The handler.
pub(super) struct DiskQueue {
    disk: Arc<Disk>,
    engine: Box<dyn Engine>,
    features: u64,
    /// The requests in flight, by tag.
    in_flight: Vec<Option<InFlight>>,
    free: Vec<u16>,
}

/// A request's answer, or the operation that it waits for.
enum Begun {
    Answer(Status),
    Operation(Operation),
}

impl DiskQueue {
    pub(super) fn new(disk: Arc<Disk>, engine: Box<dyn Engine>) -> Self {
        let tags = 0..QUEUE_SIZE.get();
        let in_flight = tags.clone().map(|_| None).collect();
        Self { disk, engine, features: 0, in_flight, free: tags.rev().collect() }
    }

    fn has(&self, feature: u32) -> bool {
        self.features.wrapping_shr(feature) & 1 != 0
    }

    /// When a write has to be durable (virtio 1.2 §5.2.6.2).
    fn durability(&self) -> Durability {
        let mut writeback = [1];
        if self.has(VIRTIO_BLK_F_CONFIG_WCE) {
            self.disk.config.read(WRITEBACK, &mut writeback);
        }
        if self.has(VIRTIO_BLK_F_FLUSH) && writeback != [0] {
            Durability::Cached
        } else {
            Durability::Immediate
        }
    }

    /// Takes one chain to its answer or into the engine.
    fn begin(&mut self, queue: &mut LiveQueue, chain: Chain) {
        if let Err(error) = check(&chain) {
            if chain.fault().is_none() {
                queue.count_invalid();
            }
            return queue.reject(chain, error);
        }
        let limits = Limits {
            sectors: self.disk.image.sectors(),
            access: self.disk.image.access(),
            features: self.features,
        };
        let request = match Request::parse(&chain, queue.memory(), limits) {
            Ok(request) => request,
            Err(status) => {
                add(&self.disk.counters.refused, 1);
                return answer(queue, chain, status, 0);
            }
        };
        let begun = self.operation(queue, &chain, request);
        let operation = match begun {
            Begun::Answer(Status::Ok) => {
                let written = match request {
                    Request::GetId { room } => room.min(VIRTIO_BLK_ID_BYTES.into()),
                    _ => 0,
                };
                return answer(queue, chain, Status::Ok, written);
            }
            Begun::Answer(status) => {
                add(&self.disk.counters.refused, 1);
                return answer(queue, chain, status, 0);
            }
            Begun::Operation(operation) => operation,
        };
        let Some(tag) = self.free.pop() else {
            // There are as many tags as chains can be in flight.
            return answer(queue, chain, Status::IoError, 0);
        };
        if let Some(slot) = self.in_flight.get_mut(usize::from(tag)) {
            *slot = Some(InFlight { chain, request });
        }
        self.submit(queue, tag, operation);
    }

    /// The host operation of a request.
    fn operation(&self, queue: &LiveQueue, chain: &Chain, request: Request) -> Begun {
        let (memory, counters) = (queue.memory(), &self.disk.counters);
        let operation =
            |kind, offset, len, iovecs| Begun::Operation(self.disk.operation(kind, offset, len, iovecs));
        let (buffers, skip) = match request {
            Request::Write { .. } => (chain.readable(), HEADER),
            _ => (chain.writable(), 0),
        };
        match request {
            Request::Read { offset, len } | Request::Write { offset, len } => {
                let Ok(iovecs) = Iovecs::new(buffers, memory, skip, len) else {
                    return Begun::Answer(Status::IoError);
                };
                let (kind, requests, bytes) = match request {
                    Request::Read { .. } => (Kind::Read, &counters.reads, &counters.read_bytes),
                    _ => (Kind::Write(self.durability()), &counters.writes, &counters.written_bytes),
                };
                add(requests, 1);
                add(bytes, len);
                if len == 0 { Begun::Answer(Status::Ok) } else { operation(kind, offset, len, iovecs) }
            }
            Request::Flush => {
                add(&counters.flushes, 1);
                operation(Kind::Sync, 0, 0, Iovecs::default())
            }
            Request::GetId { room } => {
                let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
                id.iter_mut().zip(self.disk.name.bytes()).for_each(|(to, from)| *to = from);
                let shown = id.get(..usize::try_from(room).unwrap_or(usize::MAX)).unwrap_or(&id);
                let is_written = chain.writable().write(memory, 0, shown).is_ok();
                Begun::Answer(if is_written { Status::Ok } else { Status::IoError })
            }
            Request::Discard { len: 0, .. } | Request::WriteZeroes { len: 0, .. } => {
                Begun::Answer(Status::Ok)
            }
            Request::Discard { offset, len } => {
                add(&counters.discards, 1);
                operation(Kind::PunchHole, offset, len, Iovecs::default())
            }
            Request::WriteZeroes { offset, len, unmap } => {
                add(&counters.zeroes, 1);
                let kind = if unmap == Unmap::Allowed { Kind::PunchHole } else { Kind::ZeroRange };
                operation(kind, offset, len, Iovecs::default())
            }
        }
    }

    fn submit(&mut self, queue: &mut LiveQueue, tag: u16, operation: Operation) {
        if let Err((_, error)) = self.engine.submit(tag, operation) {
            self.end(queue, tag, Err(error));
        }
    }

    /// Goes on with an operation that has ended: with its rest, with another one, or with the answer.
    fn proceed(&mut self, queue: &mut LiveQueue, finished: Finished) {
        let Finished { tag, operation, result } = finished;
        let is_range = matches!(operation.kind, Kind::PunchHole | Kind::ZeroRange);
        let request = self.in_flight.get(usize::from(tag)).and_then(Option::as_ref);
        let Some(request) = request.map(|in_flight| in_flight.request) else { return };
        match result {
            Ok(bytes) => match operation.rest(bytes) {
                Ok(Some(rest)) => self.submit(queue, tag, rest),
                // fallocate(2) has no flag for durability.
                Ok(None) if is_range && self.durability() == Durability::Immediate => {
                    let sync = self.disk.operation(Kind::Sync, 0, 0, Iovecs::default());
                    self.submit(queue, tag, sync);
                }
                Ok(None) => self.end(queue, tag, Ok(())),
                Err(error) => self.end(queue, tag, Err(error)),
            },
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {
                self.submit(queue, tag, operation);
            }
            Err(error) if is_range && is_unsupported(&error) => match request {
                // A discard is a hint.
                Request::Discard { .. } => self.end(queue, tag, Ok(())),
                _ => {
                    let write = operation.into_zero_write(self.durability());
                    self.submit(queue, tag, write);
                }
            },
            Err(error) => self.end(queue, tag, Err(error)),
        }
    }

    /// Answers a request in flight.
    fn end(&mut self, queue: &mut LiveQueue, tag: u16, result: io::Result<()>) {
        let Some(in_flight) = self.in_flight.get_mut(usize::from(tag)).and_then(Option::take) else { return };
        self.free.push(tag);
        let InFlight { chain, request } = in_flight;
        match (result, request) {
            (Ok(()), Request::Read { len, .. }) => answer(queue, chain, Status::Ok, len),
            (Ok(()), _) => answer(queue, chain, Status::Ok, 0),
            (Err(error), _) => {
                add(&self.disk.counters.host_errors, 1);
                tracing::debug!("disk {}: {request:?}: {error}", self.disk.name);
                answer(queue, chain, Status::IoError, 0);
            }
        }
    }
}

/// Writes the status of a request, and gives its chain back. `written` bytes of data precede the status.
fn answer(queue: &mut LiveQueue, chain: Chain, status: Status, written: u64) {
    let data = chain.writable().len().saturating_sub(1);
    if chain.writable().write(queue.memory(), data, &[status.byte()]).is_err() {
        queue.count_invalid();
        return queue.reject(chain, QueueError::Request("has a status outside of RAM"));
    }
    // The used length covers contiguous bytes, so the status counts only if all data was written.
    let len = if written == data { written.saturating_add(1) } else { written };
    queue.complete(chain, u32::try_from(len).unwrap_or(u32::MAX));
}

/// Whether the host cannot do it with this range of this file, but may write it. EINVAL is that of a block device with larger
/// sectors.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::EINVAL))
}

impl Handler for DiskQueue {
    fn init(&mut self, lane: &mut Lane) -> Result<()> {
        let watched = lane.watch(self.engine.eventfd(), FINISHED, EventSet::IN);
        watched.context("watching the operations of a disk")
    }

    fn start(&mut self, lane: &mut Lane, _queue: QueueIndex) -> Result<Service> {
        self.features = lane.features();
        Ok(Service::Lane)
    }

    fn queue_ready(&mut self, lane: &mut Lane, queue: QueueIndex) {
        let Some(queue) = lane.queue(queue) else { return };
        while let Some(chain) = queue.pop() {
            self.begin(queue, chain);
        }
        self.engine.flush();
    }

    fn descriptor_ready(&mut self, lane: &mut Lane, _token: Token, _ready: EventSet) {
        // Clear it before operations are taken: a later one signals it again.
        let _ = self.engine.eventfd().read();
        let Some(index) = lane.queues().next() else { return };
        let Some(queue) = lane.queue(index) else { return };
        while let Some(finished) = self.engine.reap() {
            self.proceed(queue, finished);
        }
        self.engine.flush();
    }
}
