//! The QEMU process: its command line, and that it never outlives us.
//!
//! A thread of its own starts QEMU and waits for it, because the kernel delivers the parent-death signal when the
//! starting *thread* ends. The agent's line is QEMU's standard input, and the monitor's its output: no file, no
//! inherited descriptor to leak.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};

use super::config::Config;
use super::rundir::RunDir;
use crate::agent::PORT;
use crate::cpus;
use crate::device::{Device, Disk, FIRST_SLOT};
use crate::error::{At, Error, Result};
use crate::ivshmem::{self, Doorbell};
use crate::kernel::Kernel;

/// What the lab host's kernel is told. The IOMMU serves VFIO only (`pt`). Root may map the
/// BARs of devices that have a driver (`iomem`). Where the machine is busy, the emulated
/// timer may be so late that a kernel that checks it gives up. The rest saves time under emulation.
const COMMAND_LINE: &str = "console=ttyS0 intel_iommu=on iommu=pt iomem=relaxed no_timer_check mitigations=off nokaslr \
                            nmi_watchdog=0 panic=-1";

/// A QEMU that was started, and our ends of its lines.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) qemu: Qemu,
    pub(super) agent: UnixStream,
    pub(super) monitor: UnixStream,
    /// For each device its doorbell, if it has one.
    pub(super) doorbells: Vec<Option<Doorbell>>,
}

/// A QEMU that runs.
#[derive(Debug)]
pub(super) struct Qemu {
    pid: Pid,
    supervisor: Option<JoinHandle<Option<ExitStatus>>>,
}

impl Qemu {
    /// Starts a lab host.
    pub(super) fn start(config: &Config, kernel: &Kernel, dir: &RunDir) -> Result<Started> {
        let (agent, qemus_agent) = UnixStream::pair().at("create", "a socket")?;
        let (monitor, qemus_monitor) = UnixStream::pair().at("create", "a socket")?;
        let log = dir.path().join("qemu.log");
        let errors = File::create(&log).at("create", &log)?;
        // util-linux's setpriv asks for the signal before it becomes QEMU.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
        machine(&mut command, config, kernel, dir);
        let doorbells = devices(&mut command, config, dir)?;
        command.args(&config.qemu_arguments);
        command.stdin(OwnedFd::from(qemus_agent)).stdout(OwnedFd::from(qemus_monitor)).stderr(errors);
        let (sender, started) = mpsc::channel();
        let supervisor = thread::Builder::new().name("lab-host".into()).spawn(move || {
            let child = command.spawn();
            // Our copy of QEMU's end of the line must go, or we would never see the line close.
            drop(command);
            let mut child = match child {
                Ok(child) => child,
                Err(error) => return sender.send(Err(error)).map_or(None, |()| None),
            };
            let _ = sender.send(Ok(child.id()));
            child.wait().ok()
        });
        let supervisor = supervisor.at("start", "a thread")?;
        let start_error = |source| Error::Start { program: "qemu-system-x86_64".into(), source };
        let pid = started
            .recv()
            .unwrap_or_else(|_| Err(std::io::Error::other("its thread ended")))
            .map_err(start_error)?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| start_error(std::io::Error::other("no process id")))?;
        Ok(Started { qemu: Self { pid, supervisor: Some(supervisor) }, agent, monitor, doorbells })
    }

    /// Whether it still runs.
    pub(super) fn runs(&self) -> bool {
        self.supervisor.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Only the supervisor reaps, so while it waits the number is still that process.
        if self.runs() {
            let _ = kill_process(self.pid, Signal::KILL);
        }
        let _ = self.supervisor.take().map(JoinHandle::join);
    }
}

fn machine(command: &mut Command, config: &Config, kernel: &Kernel, dir: &RunDir) {
    let file = |name: &str| dir.path().join(name).display().to_string();
    command.args(["-machine", "q35,kernel-irqchip=split", "-accel", "tcg", "-cpu", "max"]);
    command.args([
        "-smp",
        &cpus::emulated(config.cpus).to_string(),
        "-m",
        &format!("{}M", config.memory_mib),
    ]);
    command.args(["-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none"]);
    command.args(["-chardev", "socket,id=monitor,fd=1", "-mon", "chardev=monitor,mode=control"]);
    command.args(["-serial", &format!("file:{}", file("console.log"))]);
    command.args(["-device", "intel-iommu,intremap=on,caching-mode=on,device-iotlb=on"]);
    command.arg("-kernel").arg(&kernel.vmlinuz).args([
        "-initrd",
        &file("initramfs"),
        "-append",
        COMMAND_LINE,
    ]);
    share(command, "machine", "/", ",readonly=on");
    share(command, "scratch", &dir.scratch().display().to_string(), "");
    command.args(["-device", "virtio-serial-pci", "-chardev", "socket,id=agent,fd=0"]);
    command.args(["-device", &format!("virtserialport,chardev=agent,name={PORT}")]);
    if !config.trace.is_empty() {
        command.args(["-D", &file("trace.log"), "-msg", "timestamp=on"]);
        for event in &config.trace {
            command.args(["-trace", event]);
        }
    }
}

/// Shares a directory over 9p. Below it may be other file systems with the same inode numbers: `remap`.
fn share(command: &mut Command, tag: &str, path: &str, more: &str) {
    let path = path.replace(',', ",,");
    command
        .args(["-fsdev", &format!("local,id={tag},path={path},security_model=none,multidevs=remap{more}")]);
    command.args(["-device", &format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}")]);
}

fn devices(command: &mut Command, config: &Config, dir: &RunDir) -> Result<Vec<Option<Doorbell>>> {
    let mut doorbells = Vec::new();
    for (n, device) in config.devices.iter().enumerate() {
        let (port, slot) = (format!("port{n}"), FIRST_SLOT + n);
        command.args([
            "-device",
            &format!("pcie-root-port,id={port},bus=pcie.0,addr={slot:#x},chassis={slot},slot={slot}"),
        ]);
        let mut doorbell = None;
        let device = match device {
            Device::Nvme { vectors, queues, disk } => {
                let path = match disk {
                    Disk::File(path) => path.clone(),
                    Disk::Blank(size) => dir.blank_disk(n, *size)?,
                };
                let path = path.display().to_string().replace(',', ",,");
                command.args(["-drive", &format!("if=none,id=disk{n},format=raw,file={path}")]);
                format!("nvme,serial=lab{n},drive=disk{n},msix_qsize={vectors},max_ioqpairs={queues}")
            }
            Device::Ivshmem { vectors, shared_bytes } => {
                let socket = format!("{}-{n}", dir.name());
                doorbell = Some(ivshmem::serve(&socket, *vectors, *shared_bytes)?);
                command.args(["-chardev", &format!("socket,id=doorbell{n},path={socket},abstract=on")]);
                format!("ivshmem-doorbell,chardev=doorbell{n},vectors={vectors}")
            }
            Device::Igb => "igb,romfile=".to_owned(),
            Device::E1000e => "e1000e,romfile=".to_owned(),
            Device::Other(text) => text.clone(),
        };
        command.args(["-device", &format!("{device},bus={port}")]);
        doorbells.push(doorbell);
    }
    Ok(doorbells)
}
