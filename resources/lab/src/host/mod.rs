//! A running lab host: boots it, again if it hangs, runs commands in it, and ends it.
//!
//! A [`Lab`] may be shared by threads; commands run side by side. It ends when it is dropped, or when this process
//! does, however that happens.

mod command;
mod config;
mod link;
mod qemu;
mod rundir;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

pub use command::{Command, Input, Job, Output, Said};
pub use config::Config;

use crate::cache::{self, Cache};
use crate::device::{FIRST_SLOT, MAX_DEVICES};
use crate::error::{At, Error, Result};
use crate::initramfs::Initramfs;
use crate::interrupts::{Interrupt, interrupts};
use crate::ivshmem::Doorbell;
use crate::kernel::Kernel;
use crate::trace::{MsixState, msix_states};
use crate::wire::Message;
use link::Link;
use qemu::Qemu;
use rundir::RunDir;

/// What the lab host loads before its agent starts.
const MODULES: &[&str] = &[
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "overlay",
    "virtio_console",
    "kvm-amd",
    "vfio-pci",
    "vfio_iommu_type1",
];
const INIT: &str = include_str!("init.sh");

/// A running lab host.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: QEMU before its files.
    qemu: Qemu,
    link: Arc<Link>,
    doorbells: Vec<Option<Doorbell>>,
    kernel: Kernel,
    agent: String,
    console: PathBuf,
    dir: RunDir,
}

impl Lab {
    /// Boots a lab host, and says on standard error how that goes.
    ///
    /// # Errors
    /// Something is missing (see [`provision`](crate::provision())), QEMU does not start, or the lab host does not
    /// come up however often it is tried.
    pub fn boot(cache: &Cache, config: Config) -> Result<Self> {
        if config.devices.len() > MAX_DEVICES {
            return Err(Error::Device(
                "all".into(),
                format!("a lab host has room for {MAX_DEVICES} devices"),
            ));
        }
        let kernel = Kernel::find(cache, config.series)?;
        let agent = agent_binary()?;
        let kept = cache.dir("log")?.join(format!("console-{}.log", config.series));
        for attempt in 1..=config.tries {
            let begun = Instant::now();
            eprintln!("lab: booting the lab host on {}", kernel.release);
            let dir = RunDir::new(cache)?;
            write_initramfs(cache, &kernel, &agent, &dir)?;
            let (qemu, line, doorbells) = Qemu::start(&config, &kernel, &dir)?;
            let (link, ready) = Link::new(line, kept.clone())?;
            let lab = Self {
                qemu,
                link,
                doorbells,
                kernel: kernel.clone(),
                agent: agent.to_string_lossy().into_owned(),
                console: kept.clone(),
                dir,
            };
            match lab.wait_until_up(&ready, config.patience) {
                Ok(()) => {
                    eprintln!("lab: up after {:.1} s", begun.elapsed().as_secs_f64());
                    return Ok(lab);
                }
                Err(why) => eprintln!("lab: try {attempt} of {}: {why}", config.tries),
            }
        }
        Err(Error::Boot { tries: config.tries, console: kept })
    }

    fn wait_until_up(&self, ready: &Receiver<Message>, patience: Duration) -> Result<(), String> {
        match ready.recv_timeout(patience) {
            Ok(_) => Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("not up after {} s, starting again", patience.as_secs()))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let said = fs::read_to_string(self.dir.path().join("qemu.log")).unwrap_or_default();
                Err(format!("it ended by itself. {}", said.trim()))
            }
        }
    }

    /// Starts a command.
    ///
    /// # Errors
    /// The lab host is gone.
    pub fn start(&self, command: Command) -> Result<Job> {
        let (channel, from) = self.link.open();
        let line = command.line();
        let deadline = command.timeout.map(|patience| (Instant::now() + patience, patience));
        let job = Job { link: Arc::clone(&self.link), channel, from, line, deadline };
        self.link.send(channel, Message::Start(command.start))?;
        Ok(job)
    }

    /// Runs a command to its end, whatever its status.
    ///
    /// # Errors
    /// It could not be started, took too long, or the lab host is gone.
    pub fn output(&self, command: Command) -> Result<Output> {
        self.start(command)?.output()
    }

    /// Runs a command that must succeed.
    ///
    /// # Errors
    /// As [`Lab::output`], or it ended with another status than 0.
    pub fn run(&self, command: Command) -> Result<Output> {
        let line = command.line();
        let output = self.output(command)?;
        if output.status.success() {
            return Ok(output);
        }
        let (status, stderr) = (output.status.to_string(), output.stderr_text());
        Err(Error::Command { command: line, status, stderr })
    }

    /// The address of a device, by its number in [`Config`].
    ///
    /// # Errors
    /// There is no such device in the lab host.
    pub fn address(&self, device: usize) -> Result<String> {
        let port = format!("/sys/bus/pci/devices/0000:00:{:02x}.0", FIRST_SLOT + device);
        let found = self.run(Command::shell(format!("cd {port} && ls -d 0000:*:00.0")))?;
        Ok(found.stdout_text().trim().to_owned())
    }

    /// Binds a device to vfio-pci and gives its address.
    ///
    /// # Errors
    /// There is no such device, or the kernel refuses.
    pub fn bind_to_vfio(&self, device: usize) -> Result<String> {
        let address = self.address(device)?;
        self.run(Command::new(&self.agent).args(["bind", &address]))?;
        Ok(address)
    }

    /// The vectors of an ivshmem device, to ring from here.
    ///
    /// # Errors
    /// That device is not an ivshmem.
    pub fn doorbell(&self, device: usize) -> Result<&Doorbell> {
        let doorbell = self.doorbells.get(device).and_then(Option::as_ref);
        doorbell.ok_or_else(|| Error::Device(device.to_string(), "is not an ivshmem".into()))
    }

    /// Its `/proc/interrupts`.
    ///
    /// # Errors
    /// The lab host is gone.
    pub fn interrupts(&self) -> Result<Vec<Interrupt>> {
        let text = self.run(Command::new("cat").arg("/proc/interrupts"))?;
        Ok(interrupts(&text.stdout_text()))
    }

    /// A directory that the machine and the lab host both see under this path and may both write to. It is removed
    /// with the lab host.
    pub fn scratch(&self) -> PathBuf {
        self.dir.scratch()
    }

    /// The kernel it runs.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// What QEMU traced until now.
    ///
    /// # Errors
    /// No trace was asked for.
    pub fn trace(&self) -> Result<String> {
        let path = self.dir.path().join("trace.log");
        fs::read_to_string(&path).at("read", path)
    }

    /// Every write to a device's MSI-X Message Control until now, if [`Config::trace_msix`] asked for it.
    ///
    /// # Errors
    /// It did not.
    pub fn msix_trace(&self) -> Result<Vec<MsixState>> {
        Ok(msix_states(&self.trace()?))
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        self.qemu.runs()
    }

    /// What its kernel has printed until now.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn console(&self) -> Result<String> {
        let path = self.dir.path().join("console.log");
        fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).at("read", path)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Errors name this copy; it is for people, and the next lab host of this kernel overwrites it.
        let _ = fs::copy(self.dir.path().join("console.log"), &self.console);
    }
}

/// The `lab` binary, which serves as the agent: `$LAB_AGENT`, ourselves, or what cargo built beside the test we are.
fn agent_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LAB_AGENT") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().at("find", "our own binary")?;
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join("lab")).find(|path| path.is_file());
    beside.ok_or_else(|| Error::NoAgent(cache::target_dir().join("debug/lab")))
}

fn write_initramfs(cache: &Cache, kernel: &Kernel, agent: &Path, dir: &RunDir) -> Result<()> {
    let set = |name: &str, value: &str| format!("{name}='{}'\n", value.replace('\'', r"'\''"));
    let init = [
        "#!/bin/sh\n",
        &set("AGENT", &agent.to_string_lossy()),
        &set("MODULES", &kernel.modules_dir.to_string_lossy()),
        &set("RELEASE", &kernel.release),
        &set("SCRATCH", &dir.scratch().to_string_lossy()),
        INIT,
    ]
    .concat();
    let initramfs = Initramfs::new(cache, &init)?.modules(kernel, MODULES.iter().copied())?;
    initramfs.write_to(&dir.path().join("initramfs"))
}
