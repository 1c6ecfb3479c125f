//! What `demo` understands.

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::bench::{self, BenchGuest};
use crate::compare::{self, CompareLosses};
use crate::control::{self, Control};
use crate::matrix::{self, Matrix};
use crate::messages;
use crate::run::{self, Run};

/// Boot a Linux guest with passed-through devices and report what became of their interrupts.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Verb {
    /// Ring one vector without pause while others come and go: lost interrupts, ours beside QEMU's.
    CompareLosses(CompareLosses),
    /// What interrupts cost a Linux guest, ours beside QEMU's.
    BenchGuest(BenchGuest),
    /// Each kind of device, doing work that is checked: ours beside QEMU's.
    Matrix(Matrix),
    /// A device that loses an event for certain when MSI-X is turned off in order to grow, and what we do with it.
    Control(Control),
    /// In a lab host: raise every MSI message of the USB controller at this address.
    #[command(hide = true)]
    Messages {
        /// The controller, bound to vfio-pci.
        #[arg(long)]
        inside: String,
    },
}

impl Cli {
    /// Does what was asked.
    pub(crate) fn obey(self) -> Result<ExitCode, Box<dyn Error>> {
        Ok(match self.verb {
            None => run::run(&self.run)?,
            Some(Verb::CompareLosses(compare)) => compare::losses(&compare)?,
            Some(Verb::BenchGuest(bench)) => bench::run(&bench)?,
            Some(Verb::Matrix(matrix)) => matrix::run(&matrix)?,
            Some(Verb::Control(Control { inside: Some(address), .. })) => control::inside(&address)?,
            Some(Verb::Control(control)) => control::run(&control)?,
            Some(Verb::Messages { inside }) => messages::inside(&inside)?,
        })
    }
}
