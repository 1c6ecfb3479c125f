//! Boots a lab host, and again if it hangs.
//!
//! Early in its boot an emulated machine hangs now and then, for no reason of ours. Every new try is printed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::link::Link;
use super::monitor::Monitor;
use super::qemu::{Qemu, Started};
use super::rundir::RunDir;
use super::{Config, Lab};
use crate::cache::{self, Cache};
use crate::device::MAX_DEVICES;
use crate::error::{At, Error, Result};
use crate::initramfs::Initramfs;
use crate::kernel::Kernel;
use crate::wire::Message;

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
/// What a kernel says that hangs, or that comes round again soon.
const STALLED: &str = "detected stalls";
const STALL_PATIENCE: Duration = Duration::from_secs(15);
/// How often the console is looked at while the agent is awaited.
const CONSOLE_POLL: Duration = Duration::from_millis(250);
const INIT: &str = include_str!("init.sh");

/// Why a boot came to nothing.
enum Failure {
    /// Another try may do.
    Hung(String),
    /// Another try would end the same way.
    Refused(String),
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
            let Started { qemu, agent: line, monitor, doorbells } = Qemu::start(&config, &kernel, &dir)?;
            let (link, ready) = Link::new(line, kept.clone())?;
            let lab = Self {
                qemu,
                link,
                monitor: Monitor::new(monitor)?,
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
                Err(Failure::Refused(why)) => return Err(Error::Refused(why)),
                Err(Failure::Hung(why)) => {
                    eprintln!("lab: try {attempt} of {}: {why}", config.tries);
                    let console = cache.dir("log")?.join(format!("console-{}-hung.log", config.series));
                    // For people who wonder; that it cannot be kept is no reason not to try again.
                    let _ = fs::copy(lab.dir.path().join("console.log"), console);
                }
            }
        }
        Err(Error::Boot { tries: config.tries, console: kept })
    }

    /// Waits for the agent, as long as the console shows that there is progress. On a busy machine a boot may take a
    /// minute and be well.
    fn wait_until_up(&self, ready: &Receiver<Message>, patience: Duration) -> Result<(), Failure> {
        let (mut length, mut heard) = (0, Instant::now());
        loop {
            match ready.recv_timeout(CONSOLE_POLL) {
                Ok(_) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => {
                    let log = fs::read_to_string(self.dir.path().join("qemu.log")).unwrap_or_default();
                    if self.console().unwrap_or_default().is_empty() {
                        return Err(Failure::Refused(log));
                    }
                    let why = ["it ended by itself", log.trim(), &self.last_words()].join("\n");
                    return Err(Failure::Hung(why));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let console = self.console().unwrap_or_default();
            if console.len() > length {
                (length, heard) = (console.len(), Instant::now());
            }
            let patience = if console.contains(STALLED) { patience.min(STALL_PATIENCE) } else { patience };
            if heard.elapsed() > patience {
                let why = format!("silent for {} s\n{}", patience.as_secs(), self.last_words());
                return Err(Failure::Hung(why));
            }
        }
    }

    /// The end of what the console said.
    fn last_words(&self) -> String {
        let console = self.console().unwrap_or_default();
        let lines: Vec<_> = console.lines().collect();
        lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n")
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
