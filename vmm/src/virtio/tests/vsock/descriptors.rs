//! The socket device in a process that has no descriptor left.

use std::os::fd::AsFd;
use std::process::Command;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Sockets, Turn};

/// Set in the process that has no descriptor left.
const ALONE: &str = "VMM_TEST_DESCRIPTORS";

#[test]
fn programs_that_connect_wait_for_a_descriptor_and_the_lane_sleeps_meanwhile() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "virtio::tests::vsock::descriptors::in_a_process_of_its_own", "--nocapture"]);
    let output = command.env(ALONE, "1").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("both were accepted"), "{output:?}");
}

/// The limit is of the whole process.
#[test]
fn in_a_process_of_its_own() {
    if std::env::var_os(ALONE).is_none() {
        return;
    }
    let sockets = Sockets::new();
    let address = SocketAddrUnix::new(&sockets.path).unwrap();
    let programs = [(); 2].map(|()| socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap());
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
    for program in &programs {
        connect(program.as_fd(), &address).unwrap();
        sockets.machine.settle();
    }
    // The programs wait, and are no event: the lane sleeps until its retry.
    assert_eq!(sockets.machine.turn(), Turn::Idle);
    assert_eq!(sockets.count("connections"), 0);
    setrlimit(Resource::Nofile, limit).unwrap();
    sockets.machine.wait();
    assert_eq!(sockets.count("connections"), 2);
    println!("both were accepted");
}
