//! The sandbox while a guest runs: every thread has a filter, and nothing that the VMM was started with is left open.

use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::process::Child;

use super::{Run, SPIN, out, power_off};

/// Values of `Seccomp` in proc(5), `/proc/pid/task/tid/status`.
const NONE: &str = "0";
const FILTER: &str = "2";

/// Every kind of virtual device of which the host needs to know nothing.
const DEVICES: [&str; 9] =
    ["--cpus", "2", "--rng", "--device", "ims-queues,slots=8", "--device", "ims-timer", "--irqchip", "split"];

/// A guest that runs: it has sent its first byte.
fn spinning(run: &Run, arguments: &[&str]) -> Child {
    let mut child = run.command(arguments).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The name and the mode of seccomp of each thread.
fn threads(child: &Child) -> Vec<(String, String)> {
    let field = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let statuses = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap());
    statuses.map(|status| (field(&status, "Name:"), field(&status, "Seccomp:"))).collect()
}

#[test]
fn every_thread_has_a_filter_by_default_and_none_without_the_sandbox() {
    let run = Run::new("filters", &[&out(0x3f8, b'$')[..], &SPIN].concat());
    let image = std::env::temp_dir().join(format!("vmm-run-{}-filters-disk", std::process::id()));
    let socket = image.with_extension("sock");
    fs::write(&image, vec![0; 1 << 20]).unwrap();
    let disk = format!("path={},queues=2", image.display());
    let vsock = format!("cid=3,socket={}", socket.display());
    for (sandbox, mode) in [(&[][..], FILTER), (&["--sandbox", "on"], FILTER), (&["--sandbox", "off"], NONE)]
    {
        let devices = [&DEVICES[..], &["--disk", &disk, "--vsock", &vsock], sandbox].concat();
        let child = spinning(&run, &devices);
        let threads = threads(&child);
        end(child);
        assert!(threads.len() > 7, "{threads:?}");
        for (name, seccomp) in &threads {
            assert_eq!(seccomp, mode, "{name} of {threads:?}");
        }
    }
    fs::remove_file(&socket).unwrap();
    fs::remove_file(&image).unwrap();
}

#[test]
fn inherited_descriptors_are_closed_and_may_be_files_of_options() {
    let run = Run::new("inherited", &[&out(0x3f8, b'$')[..], &SPIN].concat());
    let kernel = fs::File::open(&run.0).unwrap();
    rustix::io::fcntl_setfd(&kernel, rustix::io::FdFlags::empty()).unwrap();
    let given = format!("/dev/fd/{}", kernel.as_raw_fd());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vmm"));
    command.args(["--kernel", &given]).stdin(std::process::Stdio::piped());
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let left = fs::read_link(format!("/proc/{}/fd/{}", child.id(), kernel.as_raw_fd()));
    end(child);
    assert_ne!(left.ok(), Some(run.0.clone()));
}

#[test]
fn a_report_by_a_relative_name_replaces_the_last_one_and_the_socket_is_removed() {
    let directory = std::env::temp_dir().join(format!("vmm-run-{}-relative-directory", std::process::id()));
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("report"), "old").unwrap();
    let run = Run::new("relative", &power_off());
    let arguments = ["--rng", "--report", "report", "--vsock", "cid=3,socket=s"];
    let output = run.command(&arguments).current_dir(&directory).output().unwrap();
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(directory.join("report")).unwrap()).unwrap();
    guest::report::check(&report).unwrap();
    let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(left, ["report"]);
}

#[test]
fn a_report_goes_to_another_users_directory_if_the_vmm_may_write_there() {
    let directory = std::env::temp_dir().join(format!("vmm-run-{}-another-directory", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let report = directory.join("report");
    if std::os::unix::fs::chown(&directory, Some(65534), Some(65534)).is_ok() {
        let run = Run::new("another", &power_off());
        run.ends(&["--report", report.to_str().unwrap()], 0);
        assert!(report.exists());
    } else {
        println!("SKIPPED: a directory cannot be given away without CAP_CHOWN");
        assert!(
            std::env::var_os("TESTS_AS_ROOT").is_none(),
            "TESTS_AS_ROOT is set, and there is no CAP_CHOWN"
        );
    }
    fs::remove_dir_all(&directory).unwrap();
}

/// Runs this on a thread to whose programs the host has no Landlock.
fn without_landlock<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
    let missing = [(libc::SYS_landlock_create_ruleset, vec![])].into();
    let answer = SeccompAction::Errno(libc::ENOSYS as u32);
    let filter = SeccompFilter::new(missing, SeccompAction::Allow, answer, TargetArch::x86_64).unwrap();
    let program = BpfProgram::try_from(filter).unwrap();
    let filtered = move || {
        apply_filter(&program).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(filtered).join()).unwrap()
}

#[test]
fn a_host_without_landlock_is_said_once_and_the_guest_runs() {
    let run = Run::new("no-landlock", &power_off());
    let said = |arguments: &[&str]| String::from_utf8(run.ends(arguments, 0).stderr).unwrap();
    let (on, off) = without_landlock(|| (said(&["--rng", "--cpus", "2"]), said(&["--sandbox", "off"])));
    assert_eq!((on.matches("this host has no Landlock").count(), on.lines().count()), (1, 1), "{on}");
    assert_eq!(off, "");
}

#[test]
fn a_report_without_a_directory_is_said_and_the_guest_runs() {
    let output = Run::new("nowhere", &power_off()).ends(&["--report", "/missing/report"], 0);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--report /missing/report: "), "{said}");
}

#[test]
fn ends_of_guests_are_the_same_without_the_sandbox() {
    let run = Run::new("sandbox-off", &power_off());
    run.ends(&["--sandbox", "off"], 0);
    Run::new("sandbox-off-fault", &[0x90, 0x0f, 0x0b]).ends(&["--sandbox", "off"], 3);
}
