//! Runs of the VMM on real KVM, with guests of a few instructions: the exit status of each end, and the console. The
//! tests fail without access to /dev/kvm.

mod disk;
mod ims;
mod privileges;
mod pvh;
mod sandbox;
mod table_pages;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Load address and entry point of the guests.
const START: u64 = 0x100_0000;

/// An ELF kernel of one segment that holds `code`.
fn kernel(name: &str, code: &[u8]) -> PathBuf {
    let length = code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [START, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    for word in [120, START, START, length, length, 4096] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    let path = std::env::temp_dir().join(format!("vmm-run-{}-{name}", std::process::id()));
    std::fs::write(&path, elf).unwrap();
    path
}

/// `mov dx, port; mov al, value; out dx, al`.
fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee]
}

/// `jmp .`
const SPIN: [u8; 2] = [0xeb, 0xfe];

/// Power-off by the ACPI sleep control register.
fn power_off() -> Vec<u8> {
    [&out(0x600, 0x34)[..], &SPIN].concat()
}

struct Run(PathBuf);

impl Run {
    fn new(name: &str, code: &[u8]) -> Self {
        Self(kernel(name, code))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
        command.arg("--kernel").arg(&self.0).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn end(&self, arguments: &[&str]) -> Output {
        self.command(arguments).spawn().unwrap().wait_with_output().unwrap()
    }

    fn ends(&self, arguments: &[&str], status: i32) -> Output {
        let output = self.end(arguments);
        assert_eq!(output.status.code(), Some(status), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

#[test]
fn power_off_is_0() {
    let run = Run::new("off", &power_off());
    for arguments in [
        &[][..],
        &["--cpus", "64"],
        &["--cpus", "300"],
        &["--irqchip", "split"],
        &["--serial", "off"],
        &["--memory", "5G"],
    ] {
        run.ends(arguments, 0);
    }
}

#[test]
fn the_entropy_device_is_in_the_report_and_ends_with_the_run() {
    let report = std::env::temp_dir().join(format!("vmm-run-{}-rng-report", std::process::id()));
    Run::new("rng", &power_off()).ends(&["--rng", "--report", report.to_str().unwrap()], 0);
    let text = std::fs::read_to_string(&report).unwrap();
    std::fs::remove_file(&report).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    guest::report::check(&report).unwrap();
    let device = &report["devices"][0];
    assert_eq!((&device["virtio"], &device["place"]), (&"rng".into(), &"00:01.0".into()));
    let (vectors, counters) = (&device["software_msix"]["vectors"], &device["software_msix"]["counters"]);
    assert_eq!((vectors, &counters["delivered"], &counters["dropped"]), (&2.into(), &0.into(), &0.into()));
}

#[test]
fn every_way_to_reboot_is_0() {
    for (port, value) in [(0x602, 1), (0xcf9, 6), (0x64, 0xfe)] {
        Run::new(&format!("reboot-{port:x}"), &[&out(port, value)[..], &SPIN].concat()).ends(&[], 0);
    }
}

#[test]
fn a_log_file_has_the_machine_and_the_end_and_stderr_has_nothing() {
    let log = std::env::temp_dir().join(format!("vmm-run-{}-log-file", std::process::id()));
    let run = Run::new("log", &power_off());
    for _ in 0..2 {
        let output = run.ends(&["--log-level", "info", "--log-file", log.to_str().unwrap()], 0);
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    }
    let said = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    assert_eq!(said.matches("INFO 1 CPU, 512 MiB, --kernel ").count(), 2, "{said}");
    assert_eq!(said.matches("INFO the guest powered off").count(), 2, "{said}");
}

#[test]
fn a_write_to_the_debug_exit_port_is_the_status() {
    // mov dx, 0xf4; mov eax, 0x21; out dx, al | ax | eax
    for (width, write) in [(1, &[0xee][..]), (2, &[0x66, 0xef]), (4, &[0xef])] {
        let code = [&[0x66, 0xba, 0xf4, 0, 0xb8, 0x21, 0, 0, 0], write, &SPIN].concat();
        let run = Run::new(&format!("debug-exit-{width}"), &code);
        run.ends(&["--debug-exit", "0xf4"], 0x43);
        run.ends(&["--debug-exit", "244", "--irqchip", "split"], 0x43);
    }
    let run = Run::new("debug-exit-off", &[&out(0xf4, 0x21)[..], &power_off()].concat());
    run.ends(&[], 0);
}

#[test]
fn a_triple_fault_is_3_and_says_where() {
    // `ud2` without an interrupt table.
    let output = Run::new("fault", &[0x90, 0x0f, 0x0b]).ends(&["--cpus", "2"], 3);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("guest crashed") && said.contains("vcpu 0") && said.contains(" rip "), "{said}");
}

#[test]
fn the_console_carries_output_and_input() {
    let hello: Vec<u8> = b"hello\nworld".iter().flat_map(|byte| out(0x3f8, *byte)).collect();
    let output = Run::new("hello", &[hello, power_off()].concat()).ends(&[], 0);
    assert_eq!(output.stdout, b"hello\nworld");

    // Waits for one byte, sends it back, switches off: mov dx,0x3fd; in al,dx; test al,1; jz; mov dl,0xf8;
    // in; out.
    let echo = [0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0xb2, 0xf8, 0xec, 0xee];
    let run = Run::new("echo", &[&echo[..], &power_off()].concat());
    let mut child = run.command(&[]).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"q").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"q"[..]));
}

#[test]
fn a_prompt_without_a_newline_is_seen_while_the_guest_runs() {
    use std::io::Read;
    let run = Run::new("prompt", &[&out(0x3f8, b'$')[..], &SPIN].concat());
    let mut child = run.command(&[]).spawn().unwrap();
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    assert_eq!(byte, [b'$']);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_signal_ends_a_guest_that_spins_and_the_report_is_written() {
    let run = Run::new("spin", &[&out(0x3f8, b'!')[..], &SPIN].concat());
    let report = std::env::temp_dir().join(format!("vmm-run-{}-report", std::process::id()));
    let mut child = run.command(&["--cpus", "4", "--report", report.to_str().unwrap()]).spawn().unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !report.exists() {
        assert!(Instant::now() < deadline, "SIGUSR1 wrote no report");
        std::thread::sleep(Duration::from_millis(10));
    }
    let text = std::fs::read_to_string(&report).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    guest::report::check(&value).unwrap();
    assert!(value["routes"]["capacity"].as_u64().is_some_and(|capacity| capacity > 4000), "{text}");
    std::fs::remove_file(&report).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    assert!(report.exists(), "the end wrote no report");
    std::fs::remove_file(&report).unwrap();
}

/// On a terminal: raw mode while the guest runs, `Ctrl-A x` ends it, and the settings are restored.
#[test]
fn the_terminal_is_raw_for_the_guest_and_given_back() {
    use std::io::Read;
    use std::os::unix::ffi::OsStrExt;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{LocalModes, tcgetattr};

    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(std::ffi::OsStr::from_bytes(name.as_bytes()))
        .unwrap();
    let is_raw =
        || !tcgetattr(&theirs).unwrap().local_modes.intersects(LocalModes::ECHO | LocalModes::ICANON);
    assert!(!is_raw());

    let run = Run::new("terminal", &[&out(0x3f8, b'$')[..], &SPIN].concat());
    let mut command = run.command(&[]);
    command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap());
    let child = command.spawn().unwrap();
    let mut ours = std::fs::File::from(ours);
    let mut byte = [0];
    ours.read_exact(&mut byte).unwrap();
    assert_eq!(byte, [b'$']);
    assert!(is_raw());
    ours.write_all(b"\x01h\x01x").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(128 + 2));
    assert!(!is_raw());
    let said = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert!(
        lines[0].starts_with("vmm: 1 CPU, 512 MiB, --kernel ")
            && lines[0].ends_with("Ctrl-A h lists the keys.")
    );
    assert!(said.contains("Ctrl-A x       end the VMM"), "{said}");
    assert_eq!(lines.last(), Some(&"vmm: ended by signal 2"));
}

/// Without a reader of the console, the guest blocks, and a signal still ends the run.
#[test]
fn a_console_that_nobody_reads_does_not_hold_up_the_end() {
    // mov dx, 0x3f8; mov al, '\n'; out dx, al; jmp back
    let run = Run::new("unread", &[0x66, 0xba, 0xf8, 0x03, 0xb0, b'\n', 0xee, 0xeb, 0xfd]);
    let mut child = run.command(&[]).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::pipe::fcntl_setpipe_size(child.stdout.as_ref().unwrap(), 4096).unwrap();
    // Long enough to fill the pipe and the buffer.
    std::thread::sleep(Duration::from_secs(4));
    assert!(child.try_wait().unwrap().is_none());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the VMM did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(128 + 15));
}

/// A guest that can access every port and every address below 4 GiB reads and writes at the edges of all devices.
#[test]
fn accesses_anywhere_do_not_stop_the_vmm() {
    let mut code = Vec::new();
    for port in
        [0u16, 0x5f, 0x3f8, 0x3ff, 0x5ff, 0x602, 0xcf7, 0xcf8, 0xcfa, 0xcfc, 0xcff, 0xbfff, 0xc000, 0xffff]
    {
        let [low, high] = port.to_le_bytes();
        // mov dx, port; in eax, dx; in ax, dx; in al, dx; xor eax, eax; out dx, eax; out dx, ax
        code.extend([0x66, 0xba, low, high, 0xed, 0x66, 0xed, 0xec, 0x31, 0xc0, 0xef, 0x66, 0xef]);
    }
    for address in [
        0xbfff_fffcu32,
        0xc000_0000,
        0xdfff_fffe,
        0xe000_0000,
        0xe00f_fffd,
        0xe010_0000,
        0xfec0_0010,
        0xffff_fff8,
    ] {
        let bytes = address.to_le_bytes();
        // mov ebx, address; mov rax, [rbx]; mov [rbx], rax; mov al, [rbx+1]
        code.push(0xbb);
        code.extend(bytes);
        code.extend([0x48, 0x8b, 0x03, 0x48, 0x89, 0x03, 0x8a, 0x43, 0x01]);
    }
    code.extend(power_off());
    let run = Run::new("anywhere", &code);
    run.ends(&[], 0);
    run.ends(&["--irqchip", "split"], 0);
}
