//! The host's end: a Unix socket on which programs ask for ports of the guest, and sockets for ports of the host.
//!
//! A program connects to PATH, writes `CONNECT port\n` and reads `OK hostport\n`. A connection of the guest to port P of
//! the host goes to the socket PATH_P. No call waits.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with,
};

/// Bytes of a socket's path (unix(7)), without those of the longest port.
const LONGEST_PATH: usize = 107 - "_4294967295".len();
/// Bytes of the longest line that asks for a port.
const LONGEST_LINE: usize = "CONNECT 4294967295\r\n".len();

/// The listening socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct HostSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl HostSocket {
    /// Listens at `path`. A socket that nobody listens on is replaced.
    ///
    /// # Errors
    /// The problem and its remedy.
    pub fn bind(path: &Path) -> Result<Self, String> {
        if path.as_os_str().len() > LONGEST_PATH {
            return Err(format!("the path has more than {LONGEST_PATH} bytes; choose a shorter one"));
        }
        let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        if is_socket && UnixStream::connect(path).is_err() {
            fs::remove_file(path).map_err(|error| format!("a socket is left there: {error}; remove it"))?;
        }
        let listener = UnixListener::bind(path).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => "it exists; choose another path".to_owned(),
            _ => error.to_string(),
        })?;
        listener.set_nonblocking(true).map_err(|error| error.to_string())?;
        Ok(Self { path: path.to_owned(), listener })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// The next program that has connected, if there is one.
    ///
    /// # Errors
    /// The error of accept(2). The program still waits, for example until the process has a descriptor again.
    pub(super) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(stream.into())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Connects to the program that listens for a port of the host, if there is one.
    pub(super) fn connect(&self, port: u32) -> Option<OwnedFd> {
        let mut path = OsString::from(&self.path);
        path.push(format!("_{port}"));
        let address = SocketAddrUnix::new(Path::new(&path)).ok()?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
        connect(&socket, &address).ok()?;
        Some(socket)
    }
}

impl Drop for HostSocket {
    fn drop(&mut self) {
        // It may be gone.
        let _ = fs::remove_file(&self.path);
    }
}

/// A program that has not asked for a port yet.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) socket: OwnedFd,
    line: Vec<u8>,
}

/// What a program has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Its line has no end yet.
    Nothing,
    /// A port of the guest.
    Port(u32),
    /// It has closed, or its line is none.
    Nonsense,
}

impl Greeting {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, line: Vec::new() }
    }

    /// Reads up to the end of the line, and no byte of what follows.
    pub(super) fn read(&mut self) -> Asked {
        loop {
            let mut byte = [0; 1];
            match recv(&self.socket, &mut byte[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Asked::Nonsense,
                Ok(_) if byte == *b"\n" => return parse(&self.line).map_or(Asked::Nonsense, Asked::Port),
                Ok(_) if self.line.len() >= LONGEST_LINE => return Asked::Nonsense,
                Ok(_) => self.line.extend(byte),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Asked::Nothing,
                Err(_) => return Asked::Nonsense,
            }
        }
    }
}

fn parse(line: &[u8]) -> Option<u32> {
    let text = str::from_utf8(line).ok()?.trim_end();
    let (word, port) = text.split_once(' ')?;
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    (word.eq_ignore_ascii_case("connect") && is_number).then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_asks_for_a_port() {
        assert_eq!(parse(b"CONNECT 80"), Some(80));
        assert_eq!(parse(b"connect 4294967295\r"), Some(u32::MAX));
        for line in
            [&b""[..], b"CONNECT", b"CONNECT ", b"CONNECT 4294967296", b"CONNECT +1", b"GET 1", b"\xff 1"]
        {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_socket_that_is_left_is_replaced_and_one_in_use_or_a_file_is_not() {
        let path = std::env::temp_dir().join(format!("vmm-vsock-bind-{}", std::process::id()));
        drop(UnixListener::bind(&path).unwrap());
        let socket = HostSocket::bind(&path).unwrap();
        assert!(HostSocket::bind(&path).unwrap_err().contains("it exists"));
        drop(socket);
        fs::write(&path, "").unwrap();
        assert!(HostSocket::bind(&path).is_err() && path.exists());
        fs::remove_file(&path).unwrap();
        assert!(HostSocket::bind(&path.join("x".repeat(100))).unwrap_err().contains("bytes"));
    }
}
