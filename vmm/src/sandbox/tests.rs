//! Forbidden calls end the process, on every kind of thread, and what every thread does is allowed. Each call is made by a process of
//! its own: this test program, started again.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::thread::Builder;

use super::{EXIT_STATUS, Kind, Named, SANDBOX, enter, start};
use crate::report::ReportTarget;
use crate::vfio::host_interrupts;

/// Selects what [`in_a_process_of_its_own`] does: the index of a kind, and a call's number and three arguments.
const ORDER: &str = "VMM_TEST_SANDBOX_ORDER";

/// A call's number and its first arguments.
type Call = [i64; 4];

/// The socket of a network.
const INET_SOCKET: Call = [libc::SYS_socket, libc::AF_INET as i64, libc::SOCK_STREAM as i64, 0];
/// A program of memory that a guest could have written.
const EXECUTABLE: i64 = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as i64;

/// Calls that no thread may make.
const FORBIDDEN: [Call; 15] = [
    INET_SOCKET,
    [libc::SYS_execve, 0, 0, 0],
    [libc::SYS_clone, 0, 0, 0],
    [libc::SYS_fork, 0, 0, 0],
    [libc::SYS_ptrace, 0, 0, 0],
    [libc::SYS_mount, 0, 0, 0],
    [libc::SYS_bpf, 0, 0, 0],
    [libc::SYS_io_uring_setup, 1, 0, 0],
    [libc::SYS_mmap, 0, 4096, EXECUTABLE],
    [libc::SYS_mprotect, 0, 4096, EXECUTABLE],
    // TIOCSTI: types into the terminal.
    [libc::SYS_ioctl, 0, 0x5412, 0],
    [libc::SYS_prctl, libc::PR_SET_DUMPABLE as i64, 1, 0],
    [libc::SYS_fcntl, 0, libc::F_SETOWN as i64, 1],
    [libc::SYS_madvise, 0, 4096, libc::MADV_HWPOISON as i64],
    // Another process.
    [libc::SYS_tgkill, 1, 1, 0],
];

fn make(call: Call) -> i64 {
    let [number, first, second, third] = call;
    // SAFETY: the calls of these tests have no pointers that the kernel could follow, or are not made.
    unsafe { libc::syscall(number, first, second, third) }
}

/// The work of the started test program. It does nothing in the first one.
#[test]
fn in_a_process_of_its_own() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let numbers: Vec<i64> = order.split(' ').map(|number| number.parse().unwrap()).collect();
    let kind = Kind::ALL[numbers[0] as usize];
    start(Named { report: Some(&ReportTarget::Tree), socket: None }).unwrap();
    let work = move || {
        enter(kind);
        match numbers[1..] {
            [number, first, second, third] => drop(make([number, first, second, third])),
            _ => live(kind),
        }
    };
    Builder::new().name("tested".into()).spawn(work).unwrap().join().unwrap();
}

/// What any thread may do at any time.
fn live(kind: Kind) {
    let large: Vec<Vec<u8>> = (0..64).map(|size| vec![1; size << 14]).collect();
    drop(large);
    // SAFETY: no argument is a pointer.
    unsafe { libc::malloc_trim(0) };
    let panicked = std::panic::catch_unwind(|| panic!("as it was told"));
    assert!(panicked.is_err());
    std::thread::sleep(std::time::Duration::from_millis(1));
    assert_eq!(std::fs::read_to_string(host_interrupts::PATH).is_ok(), kind == Kind::Main);
    let refused = std::fs::read_to_string("/proc/self/status").err().and_then(|error| error.raw_os_error());
    if kind != Kind::Main || SANDBOX.get().is_some_and(|sandbox| sandbox.domain.is_some()) {
        assert_eq!(refused, Some(libc::EACCES));
    }
}

fn index(kind: Kind) -> usize {
    Kind::ALL.iter().position(|other| *other == kind).unwrap()
}

fn process(order: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "sandbox::tests::in_a_process_of_its_own", "--nocapture"]);
    command.env(ORDER, order).env("RUST_BACKTRACE", "1").output().unwrap()
}

/// What becomes of a call on a thread of this kind, and what is said.
fn call(kind: Kind, [number, first, second, third]: Call) -> (Option<i32>, String) {
    let output = process(&format!("{} {number} {first} {second} {third}", index(kind)));
    assert_eq!(output.status.signal(), None);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_call_that_no_thread_makes_ends_the_process() {
    for kind in Kind::ALL {
        for forbidden in FORBIDDEN {
            let (status, said) = call(*kind, forbidden);
            assert_eq!(status, Some(EXIT_STATUS.into()), "{kind:?} {forbidden:?}: {said}");
        }
    }
}

#[test]
fn the_message_names_the_thread_and_the_call() {
    let (_, said) = call(Kind::Vcpu, INET_SOCKET);
    let line = "vmm: sandbox: thread \"tested\" made the forbidden system call socket(0x2, 0x1, 0x0, ...)";
    assert!(said.lines().any(|other| other == line), "{said}");
}

#[test]
fn only_a_vcpu_runs_a_guest_and_only_some_threads_set_up_interrupts_of_devices() {
    let (run, set_irqs) = ([libc::SYS_ioctl, -1, 0xae80, 0], [libc::SYS_ioctl, -1, 0x3b6e, 0]);
    for kind in Kind::ALL {
        let is_allowed = |request| call(*kind, request).0 == Some(0);
        assert_eq!(is_allowed(run), *kind == Kind::Vcpu, "{kind:?}");
        let sets_up = matches!(kind, Kind::Main | Kind::Vcpu | Kind::Maintenance);
        assert_eq!(is_allowed(set_irqs), sets_up, "{kind:?}");
    }
}

#[test]
fn only_the_socket_device_makes_sockets_and_only_local_ones() {
    let local = [libc::SYS_socket, libc::AF_UNIX as i64, libc::SOCK_STREAM as i64, 0];
    for kind in Kind::ALL {
        assert_eq!(call(*kind, local).0 == Some(0), *kind == Kind::Vsock, "{kind:?}");
    }
}

#[test]
fn every_thread_may_allocate_panic_wait_and_end_and_only_the_main_thread_opens_what_is_named() {
    for kind in Kind::ALL {
        let output = process(&index(*kind).to_string());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{kind:?}: {said}");
    }
}
