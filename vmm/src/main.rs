//! A minimal VMM that embeds vm-msi and boots Linux guests with passed-through devices.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use vmm::cli::{Args, Command, CommandLine, SandboxMode, SerialTarget};
use vmm::config::Config;
use vmm::outcome::Outcome;
use vmm::report::ReportTarget;
use vmm::sandbox::{Inherited, Named};
use vmm::serial::terminal;
use vmm::vm::Vm;
use vmm::{check, cli, limits, log, sandbox};

/// The version, with the build that `make` names. Only this file depends on it: a commit rebuilds nothing else.
fn version() -> String {
    let build = option_env!("VMM_BUILD").filter(|build| !build.is_empty());
    build.map_or_else(
        || env!("CARGO_PKG_VERSION").to_owned(),
        |build| format!("{} ({build})", env!("CARGO_PKG_VERSION")),
    )
}

fn main() -> ExitCode {
    let mut command = CommandLine::command().version(version());
    let line = command
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|mut matches| CommandLine::from_arg_matches_mut(&mut matches))
        .map_err(|error| error.format(&mut command));
    let line = match line {
        Ok(line) => line,
        Err(error) => return refuse(&error),
    };
    match (line.command, line.run) {
        (Some(Command::Check { json }), _) => {
            let host = check::Host::of_this_machine();
            let written = if json { host.write_json(io::stdout()) } else { host.write_lines(io::stdout()) };
            status(written, if host.passes_devices_through() { 0 } else { 1 })
        }
        (Some(Command::Man), _) => status(clap_mangen::Man::new(command).render(&mut io::stdout()), 0),
        (Some(Command::Completions { shell }), _) => {
            clap_complete::generate(shell, &mut command, "vmm", &mut io::stdout());
            ExitCode::SUCCESS
        }
        (None, Some(args)) => run_guest(&args),
        // Without a command, the parser demands a kernel.
        (None, None) => ExitCode::from(2),
    }
}

/// Prints why the command line is refused, or the help that it asks for.
fn refuse(error: &clap::Error) -> ExitCode {
    match cli::printable_refusal(error, std::env::args_os()) {
        Some(text) => eprint!("{text}"),
        // A closed pipe is no failure: `vmm --help | head`.
        None => drop(error.print()),
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// The exit status of a command that writes to standard output.
fn status(written: io::Result<()>, status: u8) -> ExitCode {
    match written {
        Ok(()) => ExitCode::from(status),
        // `vmm man | head` closes the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(status),
        Err(error) => {
            eprintln!("vmm: standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_guest(args: &Args) -> ExitCode {
    terminal::restore_on_panic();
    let outcome = run(args).unwrap_or_else(Outcome::Failed);
    if !outcome.is_expected() || is_interactive(args) {
        eprintln!("vmm: {outcome}");
    } else {
        tracing::info!("{outcome}");
    }
    ExitCode::from(outcome.exit_status())
}

fn run(args: &Args) -> vmm::error::Result<Outcome> {
    let inherited = Inherited::note();
    log::start(args.log_level.into(), args.log_file.as_deref())?;
    vmm::privileges::forbid_gains();
    limits::raise_open_files();
    let report = args.report.as_deref().map(ReportTarget::from);
    match args.sandbox {
        SandboxMode::On => {
            let socket = args.vsock.as_ref().and_then(|vsock| vsock.socket.as_deref());
            sandbox::start(Named { report: report.as_ref(), socket })?;
        }
        SandboxMode::Off => tracing::info!("--sandbox off: the VMM's threads are not confined"),
    }
    let config = Config::check(args)?;
    let machine = config.to_string();
    let vm = Vm::new(config)?;
    if is_interactive(args) {
        eprintln!("vmm: {machine}. Ctrl-A h lists the keys.");
    } else {
        tracing::info!("{machine}");
    }
    vm.run(report, inherited)
}

/// Whether a person sits at the guest's console.
fn is_interactive(args: &Args) -> bool {
    let has_terminal = args.console || matches!(args.serial, None | Some(SerialTarget::Stdio));
    has_terminal && io::stdin().is_terminal()
}
