//! The lab host itself: one boot on each kernel, with a device of each kind, shared by all tests here.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command as HostCommand, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use lab::{Cache, Command, Config, Device, Disk, Error, Kernel, Lab, Refresh, Said, Series};

const NVME: usize = 0;
const IVSHMEM: usize = 1;

fn boot(series: Series) -> Lab {
    let cache = Cache::open().unwrap();
    lab::provision(&cache, &[series], Refresh::Keep).unwrap();
    let config = Config::new(series)
        .device(Device::Nvme { vectors: 2048, queues: 8, disk: Disk::Blank(16 << 20) })
        .device(Device::ivshmem(2048))
        .device(Device::Igb)
        .device(Device::E1000e)
        .trace_msix();
    Lab::boot(&cache, config).unwrap()
}

static NEW: LazyLock<Lab> = LazyLock::new(|| boot(Series::V6_12));
static OLD: LazyLock<Lab> = LazyLock::new(|| boot(Series::V6_1));

fn both() -> [&'static Lab; 2] {
    [&NEW, &OLD]
}

fn text(lab: &Lab, script: &str) -> String {
    lab.run(Command::shell(script).timeout(Duration::from_secs(60))).unwrap().stdout_text().trim().to_owned()
}

#[test]
fn it_runs_the_kernel_asked_for_with_kvm_and_vfio() {
    for (lab, series) in both().into_iter().zip(Series::ALL) {
        let release = text(lab, "uname -r");
        assert_eq!(release, lab.kernel().release);
        assert!(release.starts_with(&format!("{series}.")), "{release}");
        assert_eq!(
            text(lab, "ls /dev/kvm /dev/vfio/vfio; lsmod | grep -c ^kvm_amd"),
            "/dev/kvm\n/dev/vfio/vfio\n1"
        );
    }
}

#[test]
fn commands_have_the_cpus_asked_for_and_leave_the_first_alone() {
    for lab in both() {
        assert_eq!(text(lab, "nproc; taskset -cp $$ | sed 's/.*: //'; nproc --all"), "2\n1,2\n3");
    }
}

#[test]
fn its_cpus_are_seen_from_outside() {
    for lab in both() {
        let cpus = lab.cpus().unwrap();
        for what in ["CPU#2", "RIP=", "APIC of CPU#2", "IRR"] {
            assert!(cpus.contains(what), "{cpus}");
        }
        assert_eq!(lab.cpus().unwrap().matches("APIC of").count(), 3, "a second question");
    }
}

#[test]
fn output_streams_and_status_are_the_commands_own() {
    let output = NEW.output(Command::shell("echo out; echo err >&2; exit 7")).unwrap();
    assert_eq!((output.stdout_text().as_str(), output.stderr_text().as_str()), ("out\n", "err\n"));
    assert_eq!(output.status.code(), Some(7));
    let error = NEW.run(Command::new("false")).unwrap_err();
    assert!(error.to_string().contains("`false` failed"), "{error}");
    let error = NEW.run(Command::new("/no/such/program")).unwrap_err();
    assert!(matches!(&error, Error::Agent(why) if why.contains("/no/such/program")), "{error}");
}

#[test]
fn output_comes_as_it_is_said_and_input_goes_in() {
    let mut job = NEW.start(Command::new("cat").with_input()).unwrap();
    for line in ["one\n", "two\n"] {
        job.input().send(line.as_bytes()).unwrap();
        assert_eq!(job.receive().unwrap(), Said::Stdout(line.into()));
    }
    job.input().end().unwrap();
    assert!(matches!(job.receive().unwrap(), Said::Ended(status) if status.success()));
}

#[test]
fn a_megabyte_arrives_whole_and_commands_run_side_by_side() {
    thread::scope(|scope| {
        for n in 0..4 {
            scope.spawn(move || {
                let output = NEW.run(Command::shell(format!("yes {n} | head -c 1048576"))).unwrap();
                assert_eq!(output.stdout, format!("{n}\n").repeat(1 << 19).into_bytes());
            });
        }
    });
}

#[test]
fn a_command_that_takes_too_long_is_killed_with_its_children() {
    let command = Command::shell("sleep 4711 & sleep 4711").timeout(Duration::from_secs(1));
    assert!(matches!(NEW.output(command), Err(Error::Timeout { seconds: 1, .. })));
    let deadline = Instant::now() + Duration::from_secs(10);
    while text(&NEW, "ps -ef | grep -c '[s]leep 4711' || true") != "0" {
        assert!(Instant::now() < deadline, "still there");
    }
}

#[test]
fn the_machines_files_are_there_as_they_are_now() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = dir.join(format!("changing-{}", std::process::id()));
    for lab in both() {
        for content in ["first", "second and longer", "third", "forth"] {
            fs::write(&file, content).unwrap();
            assert_eq!(text(lab, &format!("cat {}", file.display())), content);
        }
        text(lab, &format!("echo changed > {}", file.display()));
        assert_eq!(fs::read_to_string(&file).unwrap(), "forth", "the lab host wrote to the machine");
    }
    fs::remove_file(file).unwrap();
}

#[test]
fn the_scratch_directory_is_shared_both_ways() {
    for lab in both() {
        let scratch = lab.scratch();
        fs::write(scratch.join("in"), "hello").unwrap();
        text(lab, &format!("cd {} && tr a-z A-Z < in > out", scratch.display()));
        assert_eq!(fs::read_to_string(scratch.join("out")).unwrap(), "HELLO");
    }
}

#[test]
fn every_device_has_an_iommu_group_and_goes_to_vfio() {
    for lab in both() {
        let mut groups: Vec<_> = (0..4)
            .map(|device| {
                let address = lab.bind_to_vfio(device).unwrap();
                let sysfs = format!("/sys/bus/pci/devices/{address}");
                let driver = text(lab, &format!("basename $(readlink {sysfs}/driver)"));
                assert_eq!(driver, "vfio-pci");
                assert_eq!(text(lab, &format!("ls {sysfs}/iommu_group/devices")), address);
                text(lab, &format!("basename $(readlink {sysfs}/iommu_group)"))
            })
            .collect();
        groups.dedup();
        assert_eq!(groups.len(), 4);
    }
}

#[test]
fn devices_have_the_vectors_asked_for() {
    for lab in both() {
        for (device, count) in [(NVME, 2048), (IVSHMEM, 2048), (2, 10), (3, 5)] {
            let address = lab.address(device).unwrap();
            let lspci = text(lab, &format!("lspci -vv -s {address}"));
            assert!(lspci.contains(&format!("MSI-X: Enable- Count={count} ")), "{lspci}");
        }
    }
}

/// A lab host of its own: this one gives its disk to the nvme driver.
#[test]
fn the_trace_shows_msix_going_on_and_off() {
    let cache = Cache::open().unwrap();
    let config = Config::new(Series::V6_12).device("nvme,vectors=8,size=1M".parse().unwrap()).trace_msix();
    let lab = Lab::boot(&cache, config).unwrap();
    text(&lab, "modprobe nvme; until test -b /dev/nvme0n1; do sleep 0.1; done");
    let seen = || -> Vec<_> {
        let states = lab.msix_trace().unwrap().into_iter().filter(|state| state.device == "nvme");
        states.map(|state| (state.enabled, state.masked)).collect()
    };
    // The driver starts with one vector, turns MSI-X off, and on again with more: each masked while it sets up.
    let (on, off) = ([(true, true), (true, false)], [(false, false)]);
    assert_eq!(seen(), [&on[..], &off, &on].concat());
    assert!(lab.interrupts().unwrap().iter().any(|i| i.description.contains("nvme0q1")));
    text(&lab, "modprobe -r nvme");
    assert_eq!(seen().last(), Some(&(false, false)));
}

/// `lab run` as a process of its own, with a command that says when it is up.
fn lab_run(command: &str) -> Child {
    HostCommand::new(env!("CARGO_BIN_EXE_lab"))
        .args(["run", "--", "sh", "-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The QEMU of that process, at whichever try: its command line names a directory of the process.
fn qemu_of(lab: &Child) -> Option<u32> {
    let mark = format!("run/{}-", lab.id());
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let named = words.starts_with(b"qemu") && String::from_utf8_lossy(&words).contains(&mark);
        entry.file_name().to_str().filter(|_| named)?.parse().ok()
    })
}

#[test]
fn a_lab_host_dies_with_the_process_that_started_it() {
    let mut lab = lab_run("echo up; sleep 4712");
    let mut line = String::new();
    BufReader::new(lab.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let qemu = qemu_of(&lab);
    // Whatever was seen, it leaves nothing behind.
    lab.kill().unwrap();
    lab.wait().unwrap();
    assert!(line == "up\n" && qemu.is_some(), "{line:?}, {qemu:?}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while qemu_of(&lab).is_some() {
        assert!(Instant::now() < deadline, "QEMU is still there");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_lab_host_that_ends_while_it_boots_is_booted_again() {
    let lab = lab_run("echo up");
    // What says nothing at all is not tried again.
    let console = Cache::open().unwrap().root().join(format!("run/{}-0/console.log", lab.id()));
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(&console).map_or(true, |console| console.len() == 0) {
        assert!(Instant::now() < deadline, "its console is silent");
        thread::sleep(Duration::from_millis(10));
    }
    let qemu = qemu_of(&lab).unwrap().to_string();
    assert!(HostCommand::new("kill").args(["-KILL", &qemu]).status().unwrap().success());
    let output = lab.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("lab: try 1 of") && output.stdout == b"up\n", "{said}");
}

#[test]
fn guest_modules_are_found_with_all_they_need() {
    let cache = Cache::open().unwrap();
    for series in Series::ALL {
        lab::provision(&cache, &[series], Refresh::Keep).unwrap();
        let kernel = Kernel::find(&cache, series).unwrap();
        let init = "#!/bin/sh\n";
        let guest = lab::Initramfs::new(&cache, init).unwrap().modules(&kernel, ["nvme"]).unwrap();
        let archive = String::from_utf8_lossy(&guest.to_bytes().unwrap()).into_owned();
        let order = archive.split("modules/order\0").nth(1).unwrap();
        let (core, nvme) = (order.find("nvme-core.ko").unwrap(), order.find("nvme.ko").unwrap());
        assert!(core < nvme);
        assert!(kernel.vmlinuz.is_file() && kernel.headers_dir.join("Makefile").is_file());
    }
}

#[test]
fn kvm_in_it_boots_a_linux_guest() {
    let cache = Cache::open().unwrap();
    for lab in both() {
        let init = "#!/bin/sh\nmount -t proc proc /proc\necho \"guest up on $(uname -r)\"\npoweroff -f\n";
        let image = lab.scratch().join("guest.cpio");
        lab::Initramfs::new(&cache, init).unwrap().write_to(&image).unwrap();
        let vmlinuz = lab.kernel().vmlinuz.display().to_string();
        let guest = Command::new("qemu-system-x86_64")
            .args([
                "-accel",
                "kvm",
                "-machine",
                "q35",
                "-cpu",
                "host",
                "-m",
                "256M",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(["-nodefaults", "-serial", "stdio", "-append", "console=ttyS0 quiet", "-kernel", &vmlinuz])
            .args(["-initrd", &image.display().to_string()])
            .timeout(Duration::from_secs(150));
        let begun = Instant::now();
        let output = lab.run(guest).unwrap();
        let said = output.stdout_text();
        eprintln!("guest on {}: {:.1} s", lab.kernel().release, begun.elapsed().as_secs_f64());
        assert!(said.contains(&format!("guest up on {}", lab.kernel().release)), "{said}");
    }
}

#[test]
fn what_qemu_cannot_do_is_said_at_once() {
    let cache = Cache::open().unwrap();
    lab::provision(&cache, &[Series::V6_12], Refresh::Keep).unwrap();
    let config = Config::new(Series::V6_12).device(Device::Other("nonsense".into()));
    let error = Lab::boot(&cache, config).unwrap_err();
    assert!(matches!(&error, Error::Refused(why) if why.contains("nonsense")), "{error}");
}
