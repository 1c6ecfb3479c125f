//! Boots a Linux guest with passed-through devices and reports what became of their interrupts.

mod bench;
mod cli;
mod compare;
mod control;
mod matrix;
mod messages;
mod monitor;
mod report;
mod run;
mod screen;
mod stage;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Cli::parse().obey() {
        Ok(verdict) => verdict,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}
