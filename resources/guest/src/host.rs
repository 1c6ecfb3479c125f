//! Where a guest runs: in a lab host, or on this machine.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use lab::{Lab, Said};

use crate::error::{Error, Result};
use crate::here::Process;
use crate::interrupts::HostVectors;

/// A Linux host with KVM and VFIO.
#[derive(Debug)]
pub enum Host {
    /// An emulated one.
    Lab(Box<Lab>),
    /// This machine.
    Here,
}

impl Host {
    /// The lab host.
    ///
    /// # Errors
    /// It is this machine.
    pub fn lab(&self) -> Result<&Lab> {
        match self {
            Self::Lab(lab) => Ok(lab),
            Self::Here => Err(Error::NoLab),
        }
    }

    /// A directory that it and this machine share, and both may write to.
    pub fn scratch(&self) -> PathBuf {
        match self {
            Self::Lab(lab) => lab.scratch(),
            Self::Here => std::env::temp_dir(),
        }
    }

    /// What a shell script on it prints.
    ///
    /// # Errors
    /// It ended with another status than 0, or could not be run.
    pub fn shell(&self, script: &str) -> Result<String> {
        match self {
            Self::Lab(lab) => {
                let command = lab::Command::shell(script).timeout(Duration::from_secs(60));
                Ok(lab.run(command)?.stdout_text())
            }
            Self::Here => {
                let output = Command::new("sh").args(["-c", script]).output();
                let output = output.map_err(|source| lab::Error::Start { program: "sh".into(), source })?;
                if output.status.success() {
                    return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
                }
                let (status, said) = (output.status.to_string(), String::from_utf8_lossy(&output.stderr));
                Err(lab::Error::Program { command: script.to_owned(), status, output: said.into_owned() }
                    .into())
            }
        }
    }

    /// The vectors that its kernel has requested for a device, now.
    ///
    /// # Errors
    /// `/proc/interrupts` cannot be read.
    pub fn vectors(&self, address: &str) -> Result<HostVectors> {
        Ok(HostVectors::of(address, &self.shell("cat /proc/interrupts")?))
    }

    /// Starts a program on it.
    pub(crate) fn start(&self, words: &[String], patience: Duration) -> Result<Running> {
        match self {
            Self::Lab(lab) => {
                let program = words.first().cloned().unwrap_or_default();
                let command = lab::Command::new(program).args(words.iter().skip(1).cloned());
                Ok(Running::InLab(lab.start(command.with_input().timeout(patience))?))
            }
            Self::Here => Ok(Running::Here(Process::start(words, patience)?)),
        }
    }
}

/// A program that runs on a host. Dropping it kills it.
#[derive(Debug)]
pub(crate) enum Running {
    InLab(lab::Job),
    Here(Process),
}

impl Running {
    /// From now on it has so long.
    pub(crate) fn allow(&mut self, patience: Duration) {
        match self {
            Self::InLab(job) => job.allow(patience),
            Self::Here(process) => process.allow(patience),
        }
    }

    /// Waits for what it says next.
    pub(crate) fn receive(&mut self) -> Result<Said> {
        match self {
            Self::InLab(job) => Ok(job.receive()?),
            Self::Here(process) => process.receive(),
        }
    }

    /// Gives it input.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::InLab(job) => Ok(job.input().send(bytes)?),
            Self::Here(process) => process.send(bytes),
        }
    }
}
