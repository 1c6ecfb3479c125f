//! `lab`: the command line of the lab host.

mod cli;
mod foreground;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::from(125)
        }
    }
}
