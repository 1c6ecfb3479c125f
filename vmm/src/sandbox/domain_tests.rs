//! What a thread in the domain can still open, make, remove and reach. Each test enters the domain on a thread of its own.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::domain::{Domain, Named};
use crate::report::ReportTarget;
use crate::vfio::host_interrupts;

/// LANDLOCK_CREATE_RULESET_VERSION (linux/landlock.h).
const VERSION: usize = 1;
/// The interfaces that brought rights to TCP, a scope of abstract sockets, and a right to named sockets.
const WITH_TCP: i64 = 4;
const WITH_ABSTRACT_SOCKETS: i64 = 6;
const WITH_NAMED_SOCKETS: i64 = 9;

/// The kernel's interface. `None`, said once, on a host without Landlock.
fn interface() -> Option<i64> {
    // SAFETY: with this flag, the call takes no pointer.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, VERSION) };
    if version > 0 {
        return Some(version);
    }
    println!("SKIPPED: this host has no Landlock");
    assert!(std::env::var_os("TESTS_AS_ROOT").is_none(), "TESTS_AS_ROOT is set, and there is no Landlock");
    None
}

/// Whether the interface is as new as this.
fn is_since(interface: i64, other: i64, what: &str) -> bool {
    if interface < other {
        println!("SKIPPED: {what}, which needs interface {other} of Landlock; the host has {interface}");
    }
    interface >= other
}

/// A directory that is removed with what is in it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vmm-domain-{}-{name}", std::process::id()));
        for part in ["report", "socket", "other"] {
            fs::create_dir_all(path.join(part)).unwrap();
        }
        Self(path)
    }

    fn path(&self, part: &str) -> PathBuf {
        self.0.join(part)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Runs this in a domain.
fn confined(named: Named, work: impl FnOnce() + Send) {
    let domain = Domain::new(named).unwrap().expect("this host has Landlock");
    let confined = move || {
        domain.enter().unwrap();
        work();
    };
    std::thread::scope(|scope| scope.spawn(confined).join()).unwrap();
}

/// The host's answer to what is refused.
fn refused<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn only_the_reports_directory_takes_files_and_only_the_list_of_interrupts_is_read() {
    if interface().is_none() {
        return;
    }
    let directory = Directory::new("report");
    let (report, other) = (directory.path("report/file"), directory.path("other/file"));
    fs::write(&other, "as it was").unwrap();
    let target = ReportTarget::File(report.clone());
    confined(Named { report: Some(&target), socket: None }, || {
        for text in ["first", "second"] {
            let beside = report.with_extension("part");
            fs::write(&beside, text).unwrap();
            fs::rename(&beside, &report).unwrap();
        }
        assert!(fs::read_to_string(host_interrupts::PATH).unwrap().contains("CPU0"));
        let refusals = [
            ("read", refused(fs::read(&other))),
            ("read the report", refused(fs::read(&report))),
            ("read the account of users", refused(fs::read("/etc/passwd"))),
            ("read the process", refused(fs::read("/proc/self/status"))),
            ("list", refused(fs::read_dir(directory.path("report")))),
            ("write", refused(File::options().write(true).open(&other))),
            ("make", refused(File::create(directory.path("other/new")))),
            ("remove", refused(fs::remove_file(&other))),
            ("make a directory", refused(fs::create_dir(directory.path("report/new")))),
            ("link", refused(std::os::unix::fs::symlink("/etc", directory.path("report/link")))),
            ("open a device", refused(File::open("/dev/null"))),
        ];
        for (what, error) in refusals {
            assert_eq!(error, Some(libc::EACCES), "{what}");
        }
    });
    assert_eq!(fs::read_to_string(report).unwrap(), "second");
    assert_eq!(fs::read_to_string(other).unwrap(), "as it was");
}

#[test]
fn nothing_is_opened_without_a_report_and_a_socket() {
    if interface().is_none() {
        return;
    }
    confined(Named::default(), || {
        for path in [host_interrupts::PATH, "/", "/dev/kvm", "/proc/sys/vm/overcommit_memory"] {
            assert_eq!(refused(File::open(path)), Some(libc::EACCES), "{path}");
        }
    });
    // The tree on standard error has the host's counts, too.
    let tree = Named { report: Some(&ReportTarget::Tree), socket: None };
    confined(tree, || assert!(File::open(host_interrupts::PATH).is_ok()));
}

#[test]
fn what_is_open_already_keeps_its_rights() {
    if interface().is_none() {
        return;
    }
    let directory = Directory::new("open");
    let path = directory.path("other/file");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let (terminal, _) = pseudo_terminal();
    confined(Named::default(), || {
        file.write_all(b"written").unwrap();
        file.set_len(4).unwrap();
        rustix::termios::tcgetattr(&terminal).unwrap();
    });
    assert_eq!(fs::read(&path).unwrap(), b"writ");
}

/// Both ends of a device that answers ioctl.
fn pseudo_terminal() -> (rustix::fd::OwnedFd, File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (ours, theirs)
}

#[test]
fn sockets_are_reached_and_removed_beside_the_devices_socket_only() {
    let Some(interface) = interface() else { return };
    let directory = Directory::new("socket");
    let (socket, port) = (directory.path("socket/s"), directory.path("socket/s_80"));
    let other = directory.path("other/s");
    let listeners = [&socket, &port, &other].map(|path| UnixListener::bind(path).unwrap());
    confined(Named { report: None, socket: Some(&socket) }, || {
        assert_eq!(refused(fs::remove_file(&other)), Some(libc::EACCES));
        assert_eq!(refused(File::create(directory.path("socket/new"))), Some(libc::EACCES));
        UnixStream::connect(&port).unwrap().write_all(b"?").unwrap();
        if is_since(interface, WITH_NAMED_SOCKETS, "sockets elsewhere") {
            assert_eq!(refused(UnixStream::connect(&other)), Some(libc::EACCES));
        }
        fs::remove_file(&socket).unwrap();
    });
    let mut byte = [0];
    listeners[1].accept().unwrap().0.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"?");
    assert!(!socket.exists() && other.exists());
}

#[test]
fn no_network_and_no_abstract_socket_is_reached() {
    let Some(interface) = interface() else { return };
    let name = SocketAddr::from_abstract_name(format!("vmm-domain-{}", std::process::id())).unwrap();
    let _listener = UnixListener::bind_addr(&name).unwrap();
    confined(Named::default(), || {
        if is_since(interface, WITH_TCP, "TCP") {
            assert_eq!(refused(TcpListener::bind("127.0.0.1:0")), Some(libc::EACCES));
        }
        if is_since(interface, WITH_ABSTRACT_SOCKETS, "abstract sockets") {
            assert_eq!(refused(UnixStream::connect_addr(&name)), Some(libc::EPERM));
        }
        UnixStream::pair().unwrap().0.write_all(b"?").unwrap();
    });
}

#[test]
fn a_directory_that_is_not_there_keeps_no_guest_from_its_start() {
    if interface().is_none() {
        return;
    }
    let missing = ReportTarget::File("/missing/directory/report".into());
    confined(Named { report: Some(&missing), socket: Some(Path::new("relative")) }, || {
        assert!(File::open(host_interrupts::PATH).is_ok());
    });
}
