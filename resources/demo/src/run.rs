//! The main job: a guest reads its disk and grows its doorbell, and we look from both sides.

use std::process::ExitCode;

use clap::Args;
use guest::{HostVectors, Image, Machine, Result, Session, Tools};
use lab::{At, Cache, Refresh, Series};

use crate::monitor::MonitorKind;
use crate::report::{Expected, Report};
use crate::screen::Screen;
use crate::stage::Stage;

/// The main job.
#[derive(Args, Clone)]
pub(crate) struct Run {
    /// The kernel of the emulated host: 6.12 (has dynamic MSI-X) or 6.1 (has not).
    #[arg(long, default_value_t = Series::V6_12)]
    pub(crate) host: Series,
    /// Use this machine's own KVM and VFIO instead, with this device; it must be bound to vfio-pci.
    #[arg(long, value_name = "BDF", conflicts_with = "host")]
    pub(crate) device: Option<String>,
    /// The kernel of the guest: 6.12 or 6.1.
    #[arg(long, default_value_t = Series::V6_12)]
    pub(crate) guest: Series,
    /// vCPUs of the guest.
    #[arg(long, default_value_t = 4)]
    pub(crate) cpus: u32,
    /// Vectors of the device that grows, up to 256.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) vectors: u16,
    /// MiB to read from the disk.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(crate) read_mib: u64,
    /// The monitor that runs the guest.
    #[arg(long, value_enum, default_value_t = MonitorKind::Ours)]
    pub(crate) monitor: MonitorKind,
}

/// Runs it. The status says whether everything was right.
pub(crate) fn run(cli: &Run) -> Result<ExitCode> {
    let screen = Screen::new();
    let monitor = cli.monitor.monitor()?;

    screen.step("Kernels and tools");
    let cache = Cache::open()?;
    let mut kernels: Vec<Series> = vec![cli.guest];
    if cli.device.is_none() && cli.host != cli.guest {
        kernels.push(cli.host);
    }
    for kernel in lab::provision(&cache, &kernels, Refresh::Keep)? {
        println!("          Linux {}", kernel.release);
    }

    screen.step("The guest's image: busybox, drivers, and ours that grows vectors");
    let image = match &cli.device {
        Some(address) => {
            Image::with_drivers(&cache, cli.guest, Tools::Lspci, &[sysfs(address, "modalias")?])?
        }
        None => Image::build(&cache, cli.guest, Tools::None)?,
    };

    let stage = match &cli.device {
        Some(address) => {
            screen.step(&format!("This machine's own {address}"));
            Stage::here(address)?
        }
        None => {
            screen.step(&format!(
                "An emulated host on Linux {} with an NVMe disk and a doorbell device",
                cli.host
            ));
            Stage::lab(&cache, cli.host, cli.vectors, cli.read_mib)?
        }
    };

    screen.step(&format!(
        "A Linux {} guest with {} vCPUs under {:?}",
        image.kernel.release, cli.cpus, cli.monitor
    ));
    let report_path = stage.host.scratch().join("report.json");
    let machine = machine(cli, &image, &stage, &report_path)?;
    let mut session = Session::start(&stage.host, &machine, &monitor)?;
    // While the guest waits with all its vectors in use, the host is asked what it has allocated.
    session.until("holding", |event| screen.event(event))?;
    let host_vectors = stage
        .devices
        .iter()
        .map(|address| stage.host.vectors(address))
        .collect::<Result<Vec<HostVectors>>>()?;
    let report = match cli.monitor {
        MonitorKind::Ours => Some(session.report_now()?),
        MonitorKind::Qemu => None,
    };
    session.go_on()?;
    let transcript = session.finish(|event| screen.event(event))?;

    screen.step("Report");
    let expected = Expected { doorbell_vectors: cli.device.is_none().then_some(cli.vectors) };
    let report = Report::new(expected, &stage, &transcript, &host_vectors, report.as_ref())?;
    print!("{report}");
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn machine(cli: &Run, image: &Image, stage: &Stage, report: &std::path::Path) -> Result<Machine> {
    let mut machine = Machine::new(image).cpus(cli.cpus).report(report);
    for address in &stage.devices {
        machine = machine.vfio(address);
    }
    let nvme = format!("nvme:{}", cli.read_mib);
    machine = match &cli.device {
        None => machine.job(&nvme).job("grow"),
        Some(address) => {
            let machine = machine.job("lspci").job("net");
            if sysfs(address, "class")? == NVME_CLASS { machine.job(&nvme) } else { machine }
        }
    };
    let machine = machine.job("vectors").job("hold");
    Ok(machine.parameter("vectors", cli.vectors))
}

/// What sysfs says about a device.
fn sysfs(address: &str, attribute: &str) -> Result<String> {
    let path = lab::vfio::device_dir(address)?.join(attribute);
    let text = std::fs::read_to_string(&path).at("read", &path)?;
    Ok(text.trim().to_owned())
}

/// Mass storage, non-volatile, NVM Express.
const NVME_CLASS: &str = "0x010802";
