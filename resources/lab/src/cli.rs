//! What `lab` understands, and what it does about it.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::thread;

use clap::{Args, Parser, Subcommand};
use lab::{Cache, Command, Config, Device, Job, Lab, Refresh, Result, Said, Series};

/// Emulated Linux hosts with KVM and VFIO, for machines that have neither.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Fetch and install what lab hosts need (root), or say what is missing.
    Provision {
        /// 6.12, 6.1 or all.
        #[arg(long, default_value = "all")]
        kernel: String,
        /// Look for newer releases of kernels that are there already.
        #[arg(long)]
        refresh: bool,
    },
    /// Run a command in a lab host. Ends with the command's own status; 125 means that the lab host failed.
    Run {
        #[command(flatten)]
        host: Host,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Open a shell in a lab host. The host ends with the shell.
    Shell {
        #[command(flatten)]
        host: Host,
    },
    /// Bind PCI devices of the machine this runs on to vfio-pci.
    Bind {
        /// Addresses such as 0000:01:00.0.
        #[arg(required = true)]
        addresses: Vec<String>,
    },
    /// Give PCI devices of the machine this runs on back to their drivers.
    Unbind {
        /// Addresses such as 0000:01:00.0.
        #[arg(required = true)]
        addresses: Vec<String>,
    },
    /// Serve the line of a lab host; its init runs this.
    #[command(hide = true)]
    Agent,
}

#[derive(Args)]
struct Host {
    /// The kernel: 6.12 (has dynamic MSI-X) or 6.1 (has not).
    #[arg(long, default_value_t = Series::V6_12)]
    kernel: Series,
    /// A device; may be given several times. nvme[,vectors=N][,queues=N][,size=SIZE|,file=PATH],
    /// ivshmem[,vectors=N][,size=SIZE], igb, e1000e, qemu:ANYTHING.
    #[arg(long = "device", value_name = "DEVICE")]
    devices: Vec<Device>,
    /// Bind every device to vfio-pci first.
    #[arg(long)]
    vfio: bool,
    /// CPUs of the lab host.
    #[arg(long, default_value_t = 2)]
    cpus: u8,
    /// Memory of the lab host in MiB.
    #[arg(long, default_value_t = 3072)]
    memory: u32,
    /// A trace event of QEMU's to print at the end, such as msix_write_config.
    #[arg(long = "trace", value_name = "EVENT")]
    traces: Vec<String>,
    /// One more word for QEMU's command line; may be given several times.
    #[arg(long = "qemu-arg", value_name = "WORD", allow_hyphen_values = true)]
    qemu_arguments: Vec<String>,
}

impl Host {
    fn boot(self) -> Result<Lab> {
        let cache = Cache::open()?;
        lab::provision(&cache, &[self.kernel], Refresh::Keep)?;
        let mut config = Config::new(self.kernel).cpus(self.cpus).memory_mib(self.memory);
        let count = self.devices.len();
        config = self.devices.into_iter().fold(config, Config::device);
        config = self.traces.into_iter().fold(config, Config::trace);
        let lab = Lab::boot(&cache, config.qemu_arguments(self.qemu_arguments))?;
        if self.vfio {
            for device in 0..count {
                eprintln!("lab: device {device} is {}, bound to vfio-pci", lab.bind_to_vfio(device)?);
            }
        }
        Ok(lab)
    }
}

/// Does what the command line says.
pub(crate) fn run() -> Result<ExitCode> {
    match Cli::parse().verb {
        Verb::Provision { kernel, refresh } => {
            let series = match kernel.as_str() {
                "all" => Series::ALL.to_vec(),
                one => vec![one.parse().map_err(|why| lab::Error::Device("--kernel".into(), why))?],
            };
            let refresh = if refresh { Refresh::Newest } else { Refresh::Keep };
            for kernel in lab::provision(&Cache::open()?, &series, refresh)? {
                eprintln!("lab: kernel {} is {}", kernel.series, kernel.release);
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Run { host, command } => {
            let traced = !host.traces.is_empty();
            let lab = host.boot()?;
            let status = run_here(&lab, command)?;
            if traced {
                eprint!("{}", lab.trace()?);
            }
            Ok(status)
        }
        Verb::Shell { host } => crate::cli::run_here(&host.boot()?, vec!["bash".into()]),
        Verb::Bind { addresses } => {
            addresses.iter().try_for_each(|a| lab::vfio::bind(a)).map(|()| ExitCode::SUCCESS)
        }
        Verb::Unbind { addresses } => {
            addresses.iter().try_for_each(|a| lab::vfio::unbind(a)).map(|()| ExitCode::SUCCESS)
        }
        Verb::Agent => lab::run_agent().map(|()| ExitCode::SUCCESS),
    }
}

/// Runs a command as if it were here: our directory, environment, streams.
fn run_here(lab: &Lab, words: Vec<String>) -> Result<ExitCode> {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default()).args(words).with_input();
    for (name, value) in std::env::vars() {
        command = command.env(name, value);
    }
    if let Ok(directory) = std::env::current_dir() {
        command = command.directory(&directory);
    }
    let job = lab.start(command)?;
    let input = job.input();
    // Ends with the process: there is no way to stop a read from a terminal.
    thread::spawn(move || {
        let mut buffer = vec![0; 4096];
        while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
            if input.send(buffer.get(..length).unwrap_or_default()).is_err() {
                return;
            }
        }
        let _ = input.end();
    });
    follow(job)
}

fn follow(mut job: Job) -> Result<ExitCode> {
    loop {
        // Who closed our output wants no more of it; the command still runs to its end.
        match job.receive()? {
            Said::Stdout(bytes) => drop(io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush())),
            Said::Stderr(bytes) => drop(io::stderr().write_all(&bytes)),
            Said::Ended(status) => {
                // As shells say it: 128 and the signal.
                let code =
                    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(125);
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(125)));
            }
        }
    }
}
