//! The network device (virtio 1.2 §5.1) in front of a tap.
//!
//! | part | owns |
//! |---|---|
//! | [`Net`] | identity, features, configuration and report, and what the lanes share |
//! | `pair` | a lane: a receive queue and a transmit queue, or the control queue |
//! | `receive`, `transmit` | the packets of one queue |
//! | `control` | requests of the control queue |
//! | [`vhost`] | a lane whose packets the host's kernel moves |
//! | `features` | feature bits, and the queues' roles |
//! | `segments` | readv and writev on guest memory |
//! | [`link`], [`mac`] | the host's end; the guest's address |
//!
//! Each pair of queues has a thread, and a descriptor of the tap. The packets' path takes no lock, makes no copy and
//! allocates nothing. The tap checks the header of each packet that the guest sends.
//!
//! Lock: `setup`, which is held for the system calls that change the tap. Only lanes take it.

mod control;
mod counters;
mod features;
pub mod link;
pub mod mac;
mod pair;
mod receive;
mod segments;
mod transmit;
pub mod vhost;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::VIRTIO_NET_S_LINK_UP;

pub use link::Link;
pub use mac::{MacAddress, MacAddressError};

use super::device::{Device, Identity, LaneModel, Model};
use super::device_config::DeviceConfig;
use super::handler::Handler;
use super::interrupts::InterruptSource;
use super::lane::Lane;
use super::queue::{QueueIndex, QueueSize};
use crate::error::{Context, Result};
use crate::tap::HEADER_BYTES;
use counters::PairCounters;
use features::Role;
use pair::Pair;
use vhost::VhostPair;

/// The largest packet with its header: an IP packet of 64 KiB in an Ethernet frame with a VLAN tag.
const LARGEST_PACKET: u64 = HEADER_BYTES as u64 + 18 + (64 << 10);
/// Packets between two looks at whether the driver wants to know.
const PER_BATCH: usize = 64;
/// Entries of each queue. A chain of so many descriptors is not too long for writev.
const QUEUE_SIZE: QueueSize = QueueSize::two_to_the(8);

/// Whether a queue may have more work at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    More,
    Blocked,
}

/// The part of a network device that its lanes share.
pub struct Net {
    link: Arc<dyn Link>,
    mac: MacAddress,
    label: Option<String>,
    features: u64,
    queues: Vec<QueueSize>,
    config: Arc<DeviceConfig>,
    counters: Vec<Arc<PairCounters>>,
    control_errors: AtomicU64,
    /// Whether the link is set up for the present driver.
    is_set_up: AtomicBool,
    setup: Mutex<()>,
    pairs_in_use: AtomicU64,
    datapath: Datapath,
}

/// Where packets are moved between the link and the guest's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Datapath {
    /// In the VMM, by a thread for each pair of queues.
    #[default]
    Vmm,
    /// In the host's kernel, by vhost-net. The link is a tap.
    Vhost,
}

impl Net {
    /// The model of a device with a pair of queues for each of the link's.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if the process has no descriptor left.
    pub fn model(
        link: Arc<dyn Link>,
        mac: MacAddress,
        datapath: Datapath,
        label: Option<String>,
    ) -> Result<Model> {
        let net = Arc::new(Self::new(link, mac, datapath, label));
        let ports = net.link.queues().iter().cloned().zip(net.counters.clone());
        let lane = |pair: u16, file, counters| -> Result<LaneModel> {
            let receive = QueueIndex(pair.saturating_mul(2));
            let transmit = QueueIndex(receive.0.saturating_add(1));
            let net = Arc::clone(&net);
            let handler: Box<dyn Handler> = match datapath {
                Datapath::Vmm => Box::new(Pair::new(net, receive, file, counters)),
                Datapath::Vhost => {
                    let pair = VhostPair::new(net, receive, file);
                    Box::new(pair.context("creating an eventfd")?)
                }
            };
            Ok(LaneModel { queues: vec![receive, transmit], handler })
        };
        let lanes = (0..net.pairs()).zip(ports).map(|(pair, (file, counters))| lane(pair, file, counters));
        let mut lanes: Vec<_> = lanes.collect::<Result<_>>()?;
        let control = QueueIndex(net.pairs().saturating_mul(2));
        lanes.push(LaneModel { queues: vec![control], handler: Box::new(Pair::control(Arc::clone(&net))) });
        Ok(Model { device: net, lanes })
    }

    fn new(link: Arc<dyn Link>, mac: MacAddress, datapath: Datapath, label: Option<String>) -> Self {
        let pairs = u16::try_from(link.queues().len()).unwrap_or(u16::MAX);
        let mtu = link.mtu().unwrap_or(0).to_le_bytes();
        // mac, status, max_virtqueue_pairs, mtu (§5.1.4).
        let status = (VIRTIO_NET_S_LINK_UP as u16).to_le_bytes();
        let config = [&mac.octets()[..], &status, &pairs.to_le_bytes(), &mtu].concat();
        Self {
            mac,
            label,
            features: features::offered(&*link, pairs),
            queues: vec![QUEUE_SIZE; usize::from(pairs).saturating_mul(2).saturating_add(1)],
            config: Arc::new(DeviceConfig::new(config, 0..0)),
            counters: (0..pairs).map(|_| Arc::default()).collect(),
            control_errors: AtomicU64::new(0),
            is_set_up: AtomicBool::new(false),
            setup: Mutex::new(()),
            pairs_in_use: AtomicU64::new(1),
            datapath,
            link,
        }
    }

    fn pairs(&self) -> u16 {
        u16::try_from(self.counters.len()).unwrap_or(u16::MAX)
    }

    fn mtu(&self) -> Option<u16> {
        self.link.mtu()
    }

    /// Sets the link up for a driver with these features, before its first queue is live: one pair of queues, and the
    /// offloads that the driver accepts.
    fn start(&self, features: u64) -> io::Result<()> {
        let _setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_set_up.load(Ordering::Acquire) {
            self.link.set_offloads(features::tap_offloads(features))?;
            self.link.attach(1)?;
            self.pairs_in_use.store(1, Ordering::Relaxed);
            self.is_set_up.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Uses this many pairs of queues. False if the device does not have them.
    fn use_pairs(&self, pairs: u16) -> bool {
        let _setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        let is_possible = (1..=self.pairs()).contains(&pairs);
        let is_done = is_possible && succeeded(self.link.attach(pairs.into()));
        if is_done {
            self.pairs_in_use.store(pairs.into(), Ordering::Relaxed);
        }
        is_done
    }

    /// Serves a queue if it is the control queue.
    fn serve_control(&self, lane: &mut Lane, index: QueueIndex) {
        let features = lane.features();
        if let (Role::Control, Some(queue)) = (Role::of(index, self.pairs(), features), lane.queue(index)) {
            control::serve(self, queue, features);
        }
    }

    /// Changes the offloads of received packets to these features.
    fn set_offloads(&self, offloads: u64) -> bool {
        let _setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        succeeded(self.link.set_offloads(features::tap_offloads(offloads)))
    }
}

fn succeeded(result: io::Result<()>) -> bool {
    if let Err(error) = &result {
        tracing::warn!("the host refuses what the guest's network driver asks for: {error}");
    }
    result.is_ok()
}

impl Device for Net {
    fn identity(&self) -> Identity {
        // Network controller, Ethernet.
        Identity { id: VIRTIO_ID_NET as u16, name: "net", class: 0x02_0000, label: self.label.clone() }
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queues(&self) -> &[QueueSize] {
        &self.queues
    }

    fn config(&self) -> Option<&Arc<DeviceConfig>> {
        Some(&self.config)
    }

    fn interrupt_source(&self) -> InterruptSource {
        match self.datapath {
            Datapath::Vmm => InterruptSource::Software,
            Datapath::Vhost => InterruptSource::Eventfds,
        }
    }

    /// The lanes set the link up again when the next driver's queues become live. No system call is made here.
    fn reset(&self) {
        self.is_set_up.store(false, Ordering::Release);
    }

    fn report(&self) -> Map<String, Value> {
        // The kernel does not count.
        let counters = if self.datapath == Datapath::Vmm { &self.counters[..] } else { &[] };
        let pairs: Vec<_> = counters.iter().map(|counters| counters.report()).collect();
        let fields: [(&str, Value); 6] = [
            ("tap", self.link.name().into()),
            ("mac", self.mac.to_string().into()),
            ("vhost", (self.datapath == Datapath::Vhost).into()),
            ("pairs_in_use", self.pairs_in_use.load(Ordering::Relaxed).into()),
            ("control_errors", self.control_errors.load(Ordering::Relaxed).into()),
            ("pairs", pairs.into()),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
