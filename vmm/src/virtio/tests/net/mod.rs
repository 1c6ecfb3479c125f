//! The network device (virtio 1.2 §5.1), with a datagram socket in place of each queue of the tap.

mod control;
mod driver;
mod packets;
mod random;
mod refused;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

use super::super::net::{Datapath, Link, MacAddress, Net};
use super::*;
use crate::tap::Offloads;
use driver::NetDriver;

/// Bytes of the virtio header.
const HEADER: usize = 12;
/// Bytes of the link's socket for packets that nobody has taken: room for some ten small ones.
const SEND_BUFFER: usize = 8 << 10;
const MRG_RXBUF: u64 = 1 << 15;
const CTRL_VQ: u64 = 1 << 17;
const MQ: u64 = 1 << 22;

/// A link of sockets. It records what the device sets.
struct Sockets {
    queues: Vec<Arc<File>>,
    offloads: Mutex<Vec<Offloads>>,
    attached: Mutex<Vec<usize>>,
}

impl Sockets {
    /// A link with this many queues, and the other end of each.
    fn new(queues: usize) -> (Arc<Self>, Vec<UnixDatagram>) {
        let (mut files, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..queues {
            let (own, peer) = UnixDatagram::pair().unwrap();
            own.set_nonblocking(true).unwrap();
            rustix::net::sockopt::set_socket_send_buffer_size(&own, SEND_BUFFER).unwrap();
            peer.set_nonblocking(true).unwrap();
            files.push(Arc::new(File::from(OwnedFd::from(own))));
            peers.push(peer);
        }
        let link = Self { queues: files, offloads: Mutex::default(), attached: Mutex::default() };
        (Arc::new(link), peers)
    }
}

impl Link for Sockets {
    fn name(&self) -> &str {
        "sockets"
    }

    fn queues(&self) -> &[Arc<File>] {
        &self.queues
    }

    fn offloads(&self) -> Offloads {
        Offloads::CHECKSUM.union(Offloads::TSO4)
    }

    fn mtu(&self) -> Option<u16> {
        Some(1500)
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.offloads.lock().unwrap().push(offloads);
        Ok(())
    }

    fn attach(&self, count: usize) -> io::Result<()> {
        self.attached.lock().unwrap().push(count);
        Ok(())
    }
}

/// A packet of this length with a header of zeroes, and content that its number decides.
fn packet(number: usize, len: usize) -> Vec<u8> {
    let content = (0..len).map(|at| (number * 31 + at * 7 + at / 256) as u8);
    [0; HEADER].into_iter().chain(content).collect()
}
