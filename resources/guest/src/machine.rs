//! A guest machine before it boots, and the command line by which a monitor is asked for it.

use std::path::{Path, PathBuf};

use crate::built::{built, resolved};
use crate::error::Result;
use crate::image::Image;

/// What every guest's kernel is told. Its own messages would cost an emulated host seconds.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1";

/// How the guest ends, once its jobs are done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum End {
    /// It powers off.
    #[default]
    PowerOff,
    /// It reboots.
    Reboot,
    /// Its kernel panics.
    Crash,
}

/// The program that runs the guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Monitor {
    /// Our VMM.
    Vmm(PathBuf),
    /// The installed QEMU with its q35 machine: the reference.
    Qemu,
}

impl Monitor {
    /// Our VMM as `cargo build --release` leaves it, or `$VMM`.
    ///
    /// # Errors
    /// It was not built.
    pub fn ours() -> Result<Self> {
        match std::env::var_os("VMM") {
            Some(path) => resolved("vmm", path.into()),
            None => built("vmm"),
        }
        .map(Self::Vmm)
    }
}

/// A guest machine: one CPU and 512 MiB, no devices and nothing to do, unless said otherwise.
#[derive(Clone, Debug)]
pub struct Machine {
    image: Image,
    cpus: u32,
    memory_mib: u32,
    jobs: Vec<String>,
    parameters: Vec<String>,
    end: End,
    vfio: Vec<String>,
    has_rng: bool,
    report: Option<PathBuf>,
    arguments: Vec<String>,
    launcher: Vec<String>,
}

impl Machine {
    /// A machine that boots this image.
    pub fn new(image: &Image) -> Self {
        Self {
            image: image.clone(),
            cpus: 1,
            memory_mib: 512,
            jobs: Vec::new(),
            parameters: Vec::new(),
            end: End::PowerOff,
            vfio: Vec::new(),
            has_rng: false,
            report: None,
            arguments: Vec::new(),
            launcher: Vec::new(),
        }
    }

    /// Sets the number of vCPUs.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Sets the size of memory.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Passes through the host's device at this address. The guest sees them in this order.
    pub fn vfio(mut self, address: impl Into<String>) -> Self {
        self.vfio.push(address.into());
        self
    }

    /// Has the monitor's own entropy device.
    pub fn rng(mut self) -> Self {
        self.has_rng = true;
        self
    }

    /// Adds a job of the guest's init, `NAME` or `NAME:NUMBER`, after those before.
    pub fn job(mut self, name: &str) -> Self {
        self.jobs.push(name.to_owned());
        self
    }

    /// Adds a word to the kernel's command line; those it does not know are for the jobs.
    pub fn parameter(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.parameters.push(format!("{name}={value}"));
        self
    }

    /// Ends in this way.
    pub fn end(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    /// Has our VMM write its report of the devices here. QEMU has none.
    pub fn report(mut self, path: impl Into<PathBuf>) -> Self {
        self.report = Some(path.into());
        self
    }

    /// Where the report will be.
    pub(crate) fn report_path(&self) -> Option<&Path> {
        self.report.as_deref()
    }

    /// Adds words to the monitor's command line.
    pub fn arguments<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(words.into_iter().map(Into::into));
        self
    }

    /// Has another program start the monitor, whose command follows these words.
    pub fn started_by<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.launcher = words.into_iter().map(Into::into).collect();
        self
    }

    /// The command, program first.
    pub fn words(&self, monitor: &Monitor) -> Vec<String> {
        let kernel = self.image.kernel.vmlinuz.display().to_string();
        let initrd = self.image.initramfs.display().to_string();
        let (cpus, memory, line) =
            (self.cpus.to_string(), format!("{}M", self.memory_mib), self.command_line());
        let mut words = self.launcher.clone();
        let mut add = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
        match monitor {
            Monitor::Vmm(program) => {
                add(&[
                    &program.display().to_string(),
                    "--kernel",
                    &kernel,
                    "--initrd",
                    &initrd,
                    "--cmdline",
                    &line,
                ]);
                add(&["--cpus", &cpus, "--memory", &memory]);
                for address in &self.vfio {
                    add(&["--vfio", address]);
                }
                if self.has_rng {
                    add(&["--rng"]);
                }
                if let Some(report) = &self.report {
                    add(&["--report", &report.display().to_string()]);
                }
            }
            Monitor::Qemu => {
                add(&[
                    "qemu-system-x86_64",
                    "-machine",
                    "q35,accel=kvm",
                    "-cpu",
                    "host",
                    "-nodefaults",
                    "-no-reboot",
                ]);
                add(&["-display", "none", "-serial", "stdio", "-smp", &cpus, "-m", &memory]);
                add(&["-kernel", &kernel, "-initrd", &initrd, "-append", &line]);
                for address in &self.vfio {
                    add(&["-device", &format!("vfio-pci,host={address}")]);
                }
                if self.has_rng {
                    add(&["-device", "virtio-rng-pci,disable-legacy=on"]);
                }
            }
        }
        words.extend(self.arguments.iter().cloned());
        words
    }

    fn command_line(&self) -> String {
        let end = match self.end {
            End::PowerOff => "poweroff",
            End::Reboot => "reboot",
            End::Crash => "crash",
        };
        let mut line = format!("{COMMAND_LINE} end={end}");
        if !self.jobs.is_empty() {
            line = format!("{line} jobs={}", self.jobs.join(","));
        }
        for parameter in &self.parameters {
            line = format!("{line} {parameter}");
        }
        line
    }
}
