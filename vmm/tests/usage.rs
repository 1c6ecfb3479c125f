//! The command line: invalid input gets one line that names the argument and the remedy, and the documented exit
//! status, before KVM or a device is opened.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A temporary file, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("vmm-usage-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

fn vmm(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs `vmm` and checks its exit status, and that its one line of output contains `words`.
fn refuses(arguments: &[&str], status: i32, words: &[&str]) {
    let output = vmm(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?} does not say {word:?}: {said}");
    }
}

/// An ELF kernel of one zeroed segment at 1 MiB.
fn elf_kernel() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [1u64 << 20, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    for word in [0u64, 1 << 20, 1 << 20, 0, 4096, 4096] {
        elf.extend(word.to_le_bytes());
    }
    elf
}

#[test]
fn a_kernel_that_is_none_is_named() {
    let empty = Scratch::new("empty", b"");
    let text = Scratch::new("text", b"#!/bin/sh\n");
    let other = Scratch::new("other", b"\x7fELF\x01\x01");
    refuses(&["--kernel", "/nonexistent/vmlinuz"], 2, &["--kernel /nonexistent/vmlinuz", "No such file"]);
    refuses(&["--kernel", "/"], 2, &["--kernel /", "not a regular file"]);
    refuses(&["--kernel", empty.path()], 2, &[empty.path(), "empty"]);
    refuses(&["--kernel", text.path()], 2, &[text.path(), "not a Linux kernel"]);
    refuses(&["--kernel", other.path()], 2, &[other.path(), "another machine"]);
    let mut elf = elf_kernel();
    elf[64 + 33] = 1;
    let cut = Scratch::new("cut", &elf);
    refuses(&["--kernel", cut.path()], 2, &[cut.path(), "cut short"]);
}

#[test]
fn an_initrd_that_is_none_is_named() {
    let kernel = Scratch::new("initrd-kernel", &elf_kernel());
    let empty = Scratch::new("initrd-empty", b"");
    let initrd =
        |path: &str, words: &[&str]| refuses(&["--kernel", kernel.path(), "--initrd", path], 2, words);
    initrd("/nonexistent/initrd", &["--initrd /nonexistent/initrd", "No such file"]);
    initrd(empty.path(), &[empty.path(), "empty"]);
    initrd("/proc", &["--initrd /proc", "not a regular file"]);
}

#[test]
fn sizes_and_counts_out_of_range_are_named() {
    let kernel = Scratch::new("sizes-kernel", &elf_kernel());
    refuses(
        &["--kernel", kernel.path(), "--memory", "4000000G"],
        2,
        &["--memory 4000000G", "this machine has"],
    );
    refuses(&["--kernel", kernel.path(), "--memory", "1M"], 2, &["--memory 1M", "at least"]);
    refuses(&["--kernel", kernel.path(), "--memory", "65537K"], 2, &["--memory 65537K", "4K"]);
    for port in ["0x3f8", "0x505", "0xfffe", "1021"] {
        refuses(
            &["--kernel", kernel.path(), "--debug-exit", port],
            2,
            &["--debug-exit", "device of its own"],
        );
    }
    let line = "x".repeat(2048);
    refuses(&["--kernel", kernel.path(), "--cmdline", &line], 2, &["--cmdline", "2047"]);
    let nobody = "ims-mediated,host=ffff:ff:1f.7";
    let device = format!("{nobody},slots=3");
    refuses(&["--kernel", kernel.path(), "--device", &device], 2, &[nobody, "no such PCI device"]);
    for (argument, value) in [
        ("--cpus", "0"),
        ("--cpus", "1025"),
        ("--memory", "512"),
        ("--serial", "tty"),
        ("--irqchip", "x"),
        ("--debug-exit", "0x10000"),
        ("--debug-exit", "f4"),
        ("--vfio", "0000:01:00.0,addr=20.0"),
        ("--vfio", "0000:01:00.0,id=a b"),
        ("--vfio", "0000:01:00.0,slot=3"),
        ("--disk", "queues=4"),
        ("--disk", "path=a,queues=65"),
        ("--disk", "path=a,format=qcow2"),
        ("--net", "tap0"),
        ("--net", "tap=a/b"),
        ("--net", "tap=tap0,queues=65"),
        ("--device", "nvme"),
        ("--device", "ims-queues"),
        ("--device", "ims-queues,slots=65537"),
        ("--device", "ims-timer,slots=0"),
        ("--device", "ims-mediated,slots=3"),
    ] {
        let output = vmm(&["--kernel", kernel.path(), argument, value]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(argument) && said.contains(value), "{said}");
    }
}

#[test]
fn a_disk_that_cannot_be_is_named() {
    let kernel = Scratch::new("disk-kernel", &elf_kernel());
    let image = Scratch::new("disk-image", &[0; 4096]);
    let short = Scratch::new("disk-short", &[0; 511]);
    let disk = |values: &[&str], words: &[&str]| {
        let values = values.iter().flat_map(|value| ["--disk", value]);
        let arguments: Vec<_> = ["--kernel", kernel.path()].into_iter().chain(values).collect();
        refuses(&arguments, 2, words);
    };
    let path = |file: &Scratch| format!("path={}", file.path());
    let image = path(&image);
    disk(&["path=/nonexistent/disk"], &["--disk path=/nonexistent/disk", "No such file"]);
    disk(&["path=/tmp"], &["--disk path=/tmp", "not a regular file or block device"]);
    disk(&["path=/dev/null,readonly=on"], &["--disk path=/dev/null", "not a regular file"]);
    disk(&[&path(&short)], &[short.path(), "511 bytes", "one sector"]);
    disk(&[&image, &format!("{image},readonly=on")], &[&image, "in use"]);
    let readable = format!("{image},readonly=on");
    disk(&[&format!("{readable},id=a"), &format!("{readable},id=a")], &[&image, "id=a is the name of"]);
    disk(
        &[&format!("{readable},addr=05.0"), &format!("{readable},addr=05.0")],
        &[&image, "00:05.0 is the address of another device"],
    );
    disk(&[&format!("{readable},addr=05.3")], &[&image, "no function 0"]);
}

#[test]
fn a_kernel_is_needed_and_help_is_not_an_error() {
    let output = vmm(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--kernel"));
    let output = vmm(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    let contract = [
        "--kernel",
        "--initrd",
        "--cmdline",
        "--cpus",
        "--memory",
        "--vfio",
        "--disk",
        "--net",
        "--device",
        "ims-queues",
        "ims-timer",
        "ims-mediated",
        "--serial",
        "--debug-exit",
        "--log-level",
        "--log-file",
        "--report",
    ];
    for word in contract.into_iter().chain(["Exit status", "vfio-pci", "Ctrl-A x", "[default: 512M]"]) {
        assert!(help.contains(word), "the help does not say {word:?}");
    }
}

#[test]
fn version_man_page_and_completions_are_printed() {
    let printed = |arguments: &[&str], words: &[&str]| {
        let output = vmm(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        for word in words {
            assert!(text.contains(word), "{arguments:?} does not say {word:?}: {text}");
        }
    };
    printed(&["--version"], &[env!("CARGO_PKG_VERSION")]);
    printed(&["man"], &[".TH vmm", "Exit status", "\\-\\-kernel"]);
    for shell in ["bash", "zsh", "fish"] {
        printed(&["completions", shell], &["vmm", "debug-exit"]);
    }
    assert_eq!(vmm(&["completions", "cmd.exe"]).status.code(), Some(2));
    assert_eq!(vmm(&["check", "--kernel", "k"]).status.code(), Some(2));
}

/// The status is that of the JSON, whatever this machine can do.
#[test]
fn check_says_what_this_host_can_do() {
    let output = vmm(&["check", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let passes = report["passed_through_devices"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(if passes { 0 } else { 1 }), "{report}");
    assert_eq!(report["guests"], std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok());
    let output = vmm(&["check"]);
    let lines = String::from_utf8(output.stdout).unwrap();
    for finding in report["findings"].as_array().unwrap() {
        let (name, remedy) = (finding["name"].as_str().unwrap(), finding["remedy"].as_str());
        assert!(lines.contains(name) && remedy.is_none_or(|remedy| lines.contains(remedy)), "{lines}");
    }
    assert!(output.stderr.is_empty());
}

#[test]
fn booting_from_a_disk_needs_one_and_no_other_kernel() {
    refuses(&["--boot", "disk"], 2, &["--boot disk", "--disk path=FILE"]);
    let both = vmm(&["--boot", "disk", "--kernel", "k"]);
    assert_eq!(both.status.code(), Some(2));
    assert!(String::from_utf8(both.stderr).unwrap().contains("cannot be used with"));
}

#[test]
fn a_log_file_that_cannot_be_opened_is_named() {
    let kernel = Scratch::new("log-kernel", &elf_kernel());
    let file = "/nonexistent/log";
    refuses(&["--kernel", kernel.path(), "--log-file", file], 2, &["--log-file /nonexistent/log"]);
}

#[test]
fn a_device_that_does_not_exist_is_named() {
    let kernel = Scratch::new("vfio-kernel", &elf_kernel());
    refuses(&["--kernel", kernel.path(), "--vfio", "ffff:ff:1f.7"], 2, &["ffff:ff:1f.7"]);
}

#[test]
fn an_interface_that_is_no_tap_is_named() {
    let kernel = Scratch::new("net-kernel", &elf_kernel());
    // Where the host has no taps at all, that is the problem.
    refuses(&["--kernel", kernel.path(), "--net", "tap=lo"], 2, &["--net tap=lo"]);
}

#[test]
fn the_terminal_has_one_user() {
    let kernel = Scratch::new("console-kernel", &elf_kernel());
    let both = ["--kernel", kernel.path(), "--console", "--serial", "stdio"];
    refuses(&both, 2, &["--console: --serial stdio has the terminal", "--serial off"]);
}

#[test]
fn no_message_has_a_control_character_of_an_argument() {
    let kernel = Scratch::new("escapes", &elf_kernel());
    let evil = "\u{1b}]0;title\u{7}\u{1b}[2J\r\u{9b}31m";
    for arguments in [
        &["--kernel", evil][..],
        &["--kernel", kernel.path(), "--initrd", evil],
        &["--kernel", kernel.path(), "--memory", evil],
        &["--kernel", kernel.path(), "--disk", evil],
        &["--kernel", kernel.path(), "--disk", &format!("path={evil}")],
        &["--kernel", kernel.path(), "--disk", &format!("path=/dev/null,queues={evil}")],
        &["--kernel", kernel.path(), "--device", &format!("ims-timer,slots={evil}")],
        &["--kernel", kernel.path(), "--net", &format!("tap=t0,mac={evil}")],
        &["--kernel", kernel.path(), "--vfio", evil],
        &["--kernel", kernel.path(), "--cmdline", evil],
        &["--kernel", kernel.path(), "--serial", &format!("file=/nonexistent/{evil}")],
        &["--kernel", kernel.path(), &format!("--{evil}")],
        &[evil],
        &["completions", evil],
    ] {
        let output = vmm(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        let control = said.chars().find(|character| character.is_control() && *character != '\n');
        assert_eq!(control, None, "{arguments:?}: {said:?}");
    }
}
