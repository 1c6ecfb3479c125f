//! What the VMM could gain while a guest runs.

use std::io::Read;

use super::{Run, SPIN, out};

/// CAP_SETPCAP in a set of capabilities.
const SETPCAP: u64 = 1 << 8;

/// A field of proc(5), `/proc/pid/task/tid/status`.
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
}

/// CAP_DAC_OVERRIDE, CAP_FOWNER and CAP_IPC_LOCK.
const FILES: u64 = 1 << 1 | 1 << 3;
const LOCK: u64 = 1 << 14;

/// The status of each thread of a VMM whose guest runs.
fn statuses(run: &Run, arguments: &[&str]) -> Vec<String> {
    let mut child = run.command(arguments).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let tasks =
        tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap()).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    tasks
}

#[test]
fn a_thread_keeps_the_capabilities_that_it_uses() {
    let run = Run::new("capabilities", &[&out(0x3f8, b'$')[..], &SPIN].concat());
    let own = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let (own, permitted) = (field(&own, "CapEff"), field(&own, "CapPrm"));
    let socket = std::env::temp_dir().join(format!("vmm-run-{}-capabilities.sock", std::process::id()));
    let vsock = format!("cid=3,socket={}", socket.display());
    let devices = ["--rng", "--device", "ims-timer"];
    let with_socket = [&devices[..], &["--vsock", &vsock]].concat();
    let with_report = [&devices[..], &["--report", "/tmp/report"]].concat();
    for (arguments, main, lane) in [(&devices[..], 0, 0), (&with_socket, 0, FILES), (&with_report, FILES, 0)]
    {
        for status in statuses(&run, arguments) {
            let name = status.lines().next().unwrap().trim_start_matches("Name:").trim();
            let kept = match name.split(['.', ' ']).next() {
                Some("vcpu" | "interrupt") => LOCK,
                Some("vmm") => LOCK | main,
                Some("virtio") if name == "virtio vsock.0" => lane,
                Some("virtio") => 0,
                // The kernel's own, such as kvm-nx-lpage-re, has those of the thread that it serves.
                _ => continue,
            };
            assert_eq!(field(&status, "CapEff"), own & kept, "{status}");
            assert_eq!(field(&status, "CapPrm"), permitted & kept, "{status}");
        }
    }
    std::fs::remove_file(&socket).unwrap();
    for status in statuses(&run, &["--sandbox", "off"]) {
        assert_eq!(field(&status, "CapEff"), own, "{status}");
    }
    if own & (LOCK | FILES) != LOCK | FILES {
        println!("SKIPPED: capabilities that this test does not have itself");
        assert!(
            std::env::var_os("TESTS_AS_ROOT").is_none(),
            "TESTS_AS_ROOT is set, and capabilities are missing"
        );
    }
}

#[test]
fn no_thread_can_gain_privileges_while_a_guest_runs() {
    let run = Run::new("privileges", &[&out(0x3f8, b'$')[..], &SPIN].concat());
    let has_setpcap = {
        let own = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        field(&own, "CapEff") & SETPCAP != 0
    };
    let tasks = statuses(&run, &["--cpus", "2", "--rng"]);
    assert!(tasks.len() > 3, "the main thread, two vCPUs and the entropy device: {}", tasks.len());
    for status in &tasks {
        assert_eq!(field(status, "NoNewPrivs"), 1, "{status}");
        assert_eq!((field(status, "CapInh"), field(status, "CapAmb")), (0, 0), "{status}");
        if has_setpcap {
            assert_eq!(field(status, "CapBnd"), 0, "{status}");
        }
    }
    if !has_setpcap {
        println!("SKIPPED: the bounding set, which the VMM clears only with CAP_SETPCAP");
        assert!(
            std::env::var_os("TESTS_AS_ROOT").is_none(),
            "TESTS_AS_ROOT is set, and there is no CAP_SETPCAP"
        );
    }
}
