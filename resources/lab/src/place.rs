//! Where a command that needs KVM, and perhaps VFIO devices, can run: on this machine, or in a lab host.

use std::fs;
use std::path::Path;
use std::process::{Command as HostCommand, Stdio};

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::host::{Command, Config, Lab, Output};

/// What this machine itself can do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Abilities {
    /// `/dev/kvm` opens for reading and writing.
    pub kvm: bool,
    /// The CPU virtualizes in hardware (VMX or SVM). Without, a KVM that is there may run small guests only.
    pub hardware: bool,
    /// Devices are in IOMMU groups, so that VFIO can have them.
    pub iommu: bool,
}

impl Abilities {
    /// Looks.
    pub fn of_this_machine() -> Self {
        let kvm = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let hardware = flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
        let mut groups = fs::read_dir("/sys/kernel/iommu_groups").into_iter().flatten();
        Self { kvm, hardware, iommu: groups.next().is_some() && Path::new("/dev/vfio/vfio").exists() }
    }
}

/// A place to run commands in.
#[derive(Debug)]
pub enum Place {
    /// This machine.
    Here,
    /// A lab host.
    Lab(Box<Lab>),
}

impl Place {
    /// A place where Linux guests run: this machine if it virtualizes in hardware and no emulated device is asked
    /// for, else a lab host. Says on standard error which.
    ///
    /// # Errors
    /// As [`Lab::boot`].
    pub fn for_guests(cache: &Cache, config: Config) -> Result<Self> {
        let abilities = Abilities::of_this_machine();
        if config.devices.is_empty() && abilities.kvm && abilities.hardware {
            eprintln!("lab: this machine has KVM on hardware: no lab host needed");
            return Ok(Self::Here);
        }
        Ok(Self::Lab(Box::new(Lab::boot(cache, config)?)))
    }

    /// Runs a command to its end, whatever its status. A command's timeout holds in lab hosts only.
    ///
    /// # Errors
    /// It could not be started, or as [`Lab::output`].
    pub fn output(&self, command: Command) -> Result<Output> {
        match self {
            Self::Lab(lab) => lab.output(command),
            Self::Here => output_here(command),
        }
    }
}

fn output_here(command: Command) -> Result<Output> {
    let start = command.start;
    let mut words = start.words.iter();
    let program = words.next().cloned().unwrap_or_default();
    let mut command = HostCommand::new(&program);
    command.args(words).envs(start.environment).stdin(Stdio::null());
    command.current_dir(start.directory.as_deref().unwrap_or("/"));
    let output = command.output().map_err(|source| Error::Start { program, source })?;
    Ok(Output { status: output.status, stdout: output.stdout, stderr: output.stderr })
}
