//! The other side of QEMU's `ivshmem-doorbell`: hands out the shared memory and one eventfd a vector.
//!
//! Speaks the protocol of QEMU's ivshmem-server (docs/specs/ivshmem-spec.rst, "Client-Server protocol"): messages
//! are 8-byte little-endian numbers, some with a file descriptor beside them. There is one client, so its vectors
//! are the only ones, and a guest rings itself. The eventfds stay here too: [`Doorbell`] rings from outside.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::{Error, Result};

const PROTOCOL_VERSION: i64 = 0;
/// Says that the descriptor beside it is the shared memory.
const SHARED_MEMORY: i64 = -1;
/// The identity of the only client.
pub(crate) const OWN_ID: i64 = 0;

/// The vectors of an ivshmem device, to be rung from outside the lab host.
#[derive(Debug)]
pub struct Doorbell {
    vectors: Arc<[OwnedFd]>,
}

impl Doorbell {
    /// Raises a vector, as another peer of the shared memory would.
    ///
    /// # Errors
    /// There is no such vector.
    pub fn ring(&self, vector: u16) -> Result<()> {
        let none = || Error::Device("ivshmem".into(), format!("has no vector {vector}"));
        let fd = self.vectors.get(usize::from(vector)).ok_or_else(none)?;
        rustix::io::write(fd, &1_u64.to_ne_bytes())
            .map(drop)
            .map_err(|error| Error::Line { what: "an ivshmem eventfd", source: error.into() })
    }
}

/// Starts a server for one client on an abstract Unix socket of this name. Its thread ends when the client is
/// served; the connection stays open as long as the client does.
pub(crate) fn serve(name: &str, vectors: u16, shared_bytes: u64) -> Result<Doorbell> {
    let inner = || -> io::Result<Doorbell> {
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
        let memory = memfd_create("ivshmem", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, shared_bytes)?;
        let new = |_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        allow_many_descriptors()?;
        let vectors = (0..vectors).map(new).collect::<Result<Arc<[_]>, _>>()?;
        let theirs = Arc::clone(&vectors);
        thread::spawn(move || {
            // If the client goes away meanwhile, so does the lab host, and that is reported there.
            let Ok((mut client, _)) = listener.accept() else { return };
            if welcome(&client, memory.as_fd(), &theirs).is_ok() {
                // Until the client closes: it takes a hang-up as the end of all its peers.
                let _ = io::copy(&mut client, &mut io::sink());
            }
        });
        Ok(Doorbell { vectors })
    };
    inner().map_err(|source| Error::Line { what: "an ivshmem socket", source })
}

/// A device of 2048 vectors needs more descriptors, here and in QEMU, than a process is given at first.
fn allow_many_descriptors() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

/// Says to a new client who it is, what the memory is, and which eventfd each of its vectors has.
fn welcome(client: &UnixStream, memory: BorrowedFd<'_>, vectors: &[OwnedFd]) -> io::Result<()> {
    send(client, PROTOCOL_VERSION, None)?;
    send(client, OWN_ID, None)?;
    send(client, SHARED_MEMORY, Some(memory))?;
    vectors.iter().try_for_each(|vector| send(client, OWN_ID, Some(vector.as_fd())))
}

fn send(client: &UnixStream, number: i64, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fd.into_iter().collect();
    if !fds.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    // Eight bytes on a stream socket go whole or not at all.
    sendmsg(client, &[IoSlice::new(&number.to_le_bytes())], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::io::IoSliceMut;

    fn receive(from: &UnixStream) -> (i64, Option<OwnedFd>) {
        let mut bytes = [0; 8];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut beside, RecvFlags::WAITALL).unwrap();
        assert_eq!(got.bytes, 8);
        let fd = beside.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        (i64::from_le_bytes(bytes), fd)
    }

    #[test]
    fn a_client_learns_its_memory_and_vectors_in_order() {
        let name = format!("lab-test-{}", std::process::id());
        let doorbell = serve(&name, 3, 4096).unwrap();
        let client = UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        assert!(matches!(receive(&client), (0, None)));
        assert!(matches!(receive(&client), (0, None)));
        let (minus_one, memory) = receive(&client);
        assert_eq!(minus_one, -1);
        assert_eq!(rustix::fs::fstat(memory.unwrap()).unwrap().st_size, 4096);
        for vector in 0..3 {
            let (id, fd) = receive(&client);
            assert_eq!(id, 0);
            doorbell.ring(vector).unwrap();
            let mut count = [0; 8];
            rustix::io::read(fd.unwrap(), &mut count).unwrap();
            assert_eq!(u64::from_ne_bytes(count), 1);
        }
        assert!(doorbell.ring(3).is_err());
    }
}
