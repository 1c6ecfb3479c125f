//! A running lab host: boots it, again if it hangs, runs commands in it, and ends it.
//!
//! A [`Lab`] may be shared by threads; commands run side by side. It ends when it is dropped, or when this process
//! does, however that happens.

mod boot;
mod command;
mod config;
mod link;
mod monitor;
mod qemu;
mod rundir;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

pub use command::{Command, Input, Job, Output, Said};
pub use config::Config;

use crate::device::FIRST_SLOT;
use crate::error::{At, Error, Result};
use crate::interrupts::{Interrupt, interrupts};
use crate::ivshmem::Doorbell;
use crate::kernel::Kernel;
use crate::trace::{MsixState, msix_states};
use crate::wire::Message;
use link::Link;
use monitor::Monitor;
use qemu::Qemu;
use rundir::RunDir;

/// A running lab host.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: QEMU before its files.
    qemu: Qemu,
    link: Arc<Link>,
    monitor: Monitor,
    doorbells: Vec<Option<Doorbell>>,
    kernel: Kernel,
    agent: String,
    console: PathBuf,
    dir: RunDir,
}

impl Lab {
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

    /// What each emulated CPU is at, seen from outside, for people who wonder why nothing moves: a CPU that is halted with
    /// interrupts enabled and some requested will not wake up, and that is the emulation's fault.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn cpus(&self) -> Result<String> {
        self.monitor.cpus()
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
