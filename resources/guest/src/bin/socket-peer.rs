//! An end of streams over virtio sockets or Unix sockets, for a guest and for its host:
//! `socket-peer listen vsock:PORT|unix:PATH` and `socket-peer exchange vsock:CID:PORT|unix:PATH[:PORT] BYTES`.
//!
//! `listen` says `listening`. It reads each connection up to its end, and only then sends back what it has read. `exchange` sends
//! bytes, ends its direction, and reads the answer; it prints `bytes=.. sent=DIGEST received=DIGEST`. With a port behind
//! the path of a Unix socket it asks for that port of a guest first.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};

use guest::sha256;
use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

const USAGE: &str = "usage: socket-peer listen vsock:PORT|unix:PATH, or socket-peer exchange vsock:CID:PORT|unix:PATH[:PORT] BYTES";

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// A connected stream.
trait Stream: Read + Write {
    /// Sends no more.
    fn end(&self) -> io::Result<()>;
}

impl Stream for UnixStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for VsockStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["listen", place] => listen(place),
        ["exchange", place, bytes] => exchange(place, bytes.parse()?),
        _ => Err(USAGE.into()),
    }
}

fn listen(place: &str) -> Result<()> {
    match place.split_once(':') {
        Some(("vsock", port)) => {
            let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port.parse()?)?;
            answer_each(listener.incoming())
        }
        Some(("unix", path)) => answer_each(UnixListener::bind(path)?.incoming()),
        _ => Err(USAGE.into()),
    }
}

fn answer_each<S: Stream>(streams: impl Iterator<Item = io::Result<S>>) -> Result<()> {
    println!("listening");
    for stream in streams {
        if let Err(error) = answer(stream?) {
            eprintln!("a connection: {error}");
        }
    }
    Ok(())
}

fn answer(mut stream: impl Stream) -> io::Result<()> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    stream.write_all(&bytes)?;
    stream.end()
}

fn exchange(place: &str, bytes: usize) -> Result<()> {
    let mut stream = connect(place)?;
    let content: Vec<u8> = (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect();
    stream.write_all(&content)?;
    stream.end()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    println!("bytes={} sent={} received={}", answer.len(), sha256(&content), sha256(&answer));
    Ok(())
}

fn connect(place: &str) -> Result<Box<dyn Stream>> {
    match place.split(':').collect::<Vec<_>>()[..] {
        ["vsock", cid, port] => {
            Ok(Box::new(VsockStream::connect_with_cid_port(cid.parse()?, port.parse()?)?))
        }
        ["unix", path] => Ok(Box::new(UnixStream::connect(path)?)),
        ["unix", path, port] => {
            let mut stream = UnixStream::connect(path)?;
            stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
            let line = line(&mut stream)?;
            if !line.starts_with("OK ") {
                return Err(format!("the guest's port {port}: {line:?}").into());
            }
            Ok(Box::new(stream))
        }
        _ => Err(USAGE.into()),
    }
}

/// A line, and no byte of what follows.
fn line(stream: &mut impl Read) -> io::Result<String> {
    let mut line = String::new();
    while !line.ends_with('\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0].into());
    }
    Ok(line)
}
