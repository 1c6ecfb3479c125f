//! `faults --refuse kvm-irqfd-attach=EMFILE/7 -- PROGRAM ARGUMENT...`: runs a program while some of its system calls fail.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};

use clap::Parser;
use faults::{OneIn, Rule, under};

/// Runs a program while some of its system calls fail.
#[derive(Parser)]
struct Args {
    /// About one in N of these calls fails with this error: CALL=ERROR/N. May be given more than once.
    #[arg(long, value_name = "CALL=ERROR/N", required = true)]
    refuse: Vec<Rule>,
    /// Only calls of threads whose names begin so. May be given more than once.
    #[arg(long, value_name = "NAME")]
    thread: Vec<String>,
    /// Of the random numbers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The program and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut plan = OneIn::new(args.refuse, args.thread, args.seed);
    let Some((program, arguments)) = args.command.split_first() else { return ExitCode::from(125) };
    let status = under(
        &plan.calls(),
        |attempt| plan.answer(attempt),
        || Command::new(program).args(arguments).status(),
    );
    eprint!("{plan}");
    match status.and_then(|status| status) {
        Ok(status) => {
            let signalled = status.signal().and_then(|signal| u8::try_from(signal).ok());
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            ExitCode::from(code.or(signalled.map(|signal| signal.saturating_add(128))).unwrap_or(125))
        }
        Err(error) => {
            eprintln!("faults: {program}: {error}");
            ExitCode::from(125)
        }
    }
}
