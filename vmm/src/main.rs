//! A minimal VMM that embeds vm-msi and boots Linux guests with passed-through devices.

use std::process::ExitCode;

use clap::Parser;
use vmm::cli::Args;
use vmm::config::Config;
use vmm::limits;
use vmm::log;
use vmm::outcome::Outcome;
use vmm::report::ReportTarget;
use vmm::serial::terminal;
use vmm::vm::Vm;

fn main() -> ExitCode {
    let args = Args::parse();
    log::start(args.log_level.into());
    terminal::restore_on_panic();
    let outcome = run(&args).unwrap_or_else(Outcome::Failed);
    match &outcome {
        Outcome::Failed(error) => eprintln!("vmm: {error}"),
        Outcome::Crashed(crash) => eprintln!("vmm: {crash}"),
        Outcome::Panicked => eprintln!("vmm: the guest's kernel panicked"),
        Outcome::Stopped(signal) => eprintln!("vmm: ended by signal {signal}"),
        Outcome::DebugExit(value) => tracing::info!("the guest wrote {value:#x} to the debug-exit port"),
        Outcome::PoweredOff => tracing::info!("the guest powered off"),
        Outcome::Rebooted => tracing::info!("the guest rebooted, which ends the run"),
    }
    ExitCode::from(outcome.exit_status())
}

fn run(args: &Args) -> vmm::error::Result<Outcome> {
    limits::raise_open_files();
    let config = Config::check(args)?;
    Vm::new(config)?.run(args.report.as_deref().map(ReportTarget::from))
}
