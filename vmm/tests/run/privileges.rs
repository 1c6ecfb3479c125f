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

#[test]
fn no_thread_can_gain_privileges_while_a_guest_runs() {
    let run = Run::new("privileges", &[&out(0x3f8, b'$')[..], &SPIN].concat());
    let mut child = run.command(&["--cpus", "2", "--rng"]).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let has_setpcap = {
        let own = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        field(&own, "CapEff") & SETPCAP != 0
    };
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let tasks: Vec<_> =
        tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap()).collect();
    child.kill().unwrap();
    child.wait().unwrap();
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
