//! What can go wrong with a Linux guest, as seen from the host.

use std::path::PathBuf;

/// Why a guest could not be made, run or understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or a program of the machine could not be used, or the lab host failed.
    #[error(transparent)]
    Lab(#[from] lab::Error),
    /// A binary of this project was not built.
    #[error("no `{name}` at {}: build it with `cargo build --release`", path.display())]
    NotBuilt {
        /// The binary.
        name: &'static str,
        /// Where it would be.
        path: PathBuf,
    },
    /// A program that goes into the guest is not on this machine.
    #[error("`{0}` is not installed on this machine")]
    NoProgram(&'static str),
    /// Something was asked for that only a lab host has.
    #[error("this runs on the machine itself, and only a lab host has that")]
    NoLab,
    /// The guest ended before its init ran, twice.
    #[error("the guest did not reach its init ({status}); its last lines:\n{last}")]
    NoInit {
        /// How the VMM ended.
        status: String,
        /// The end of console and messages.
        last: String,
    },
    /// The guest did not say what it should have.
    #[error("the guest said nothing about `{missing}` ({status}); its last lines:\n{last}")]
    Silent {
        /// What was waited for.
        missing: String,
        /// How the VMM ended.
        status: String,
        /// The end of console and messages.
        last: String,
    },
    /// The guest did not do all it was asked, or did not end as it should.
    #[error("the guest did not end well: {what} ({status}); its last lines:\n{last}")]
    End {
        /// What was not as it should be.
        what: String,
        /// How the VMM ended.
        status: String,
        /// The end of console and messages.
        last: String,
    },
    /// Our VMM's report is not there, or not as it should be.
    #[error("the report of the VMM: {0}")]
    Report(String),
    /// A line of the guest's has not the value that was looked for.
    #[error("no {what} `{key}` in the guest's line `{line}`")]
    Value {
        /// What kind of value.
        what: &'static str,
        /// Its name.
        key: String,
        /// The line.
        line: String,
    },
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
