//! A minimal VMM that embeds vm-msi and boots Linux guests with passed-through devices.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::time::uptime;
use vmm::cli::Args;
use vmm::config::Config;
use vmm::limits;
use vmm::outcome::Outcome;
use vmm::report::Target;
use vmm::serial::terminal;
use vmm::vm::Vm;

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from(args.log_level))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_timer(uptime())
        .init();
    terminal::give_back_on_panic();
    let outcome = run(&args).unwrap_or_else(Outcome::Failed);
    match &outcome {
        Outcome::Failed(error) => eprintln!("vmm: {error}"),
        Outcome::Crashed(crash) => eprintln!("vmm: {crash}"),
        Outcome::Stopped(signal) => eprintln!("vmm: ended by signal {signal}"),
        Outcome::PoweredOff => tracing::info!("the guest powered off"),
        Outcome::Rebooted => tracing::info!("the guest rebooted, which ends the run"),
    }
    ExitCode::from(outcome.exit_status())
}

fn run(args: &Args) -> vmm::error::Result<Outcome> {
    limits::raise_open_files();
    let config = Config::check(args)?;
    Vm::new(config)?.run(args.report.as_deref().map(Target::from))
}
