//! What can go wrong with files, programs and the lab host. Each message names the subject, and the remedy if there is one.

use std::io;
use std::path::PathBuf;

use crate::Series;

/// Why the lab host could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// The verb: read, write, create ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A host program could not be started.
    #[error("cannot start `{program}`: {source}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A host program ended badly.
    #[error("`{command}` failed ({status}):\n{output}")]
    Program {
        /// The whole command.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// Packages are missing and only root can install them.
    #[error(
        "these packages are missing: {0}\n  run `lab provision` as root once, or install them:\n  apt-get install {0}\n  \
         (on Debian 12 qemu-system-x86 comes from the backports: apt-get install -t bookworm-backports qemu-system-x86)"
    )]
    MissingPackages(String),
    /// Something is not there yet, and only root can build it.
    #[error("only root can build {0}: run `{1}` as root once")]
    NeedsRoot(&'static str, String),
    /// The machine's package sources name no Debian mirror.
    #[error(
        "the package sources of this machine name no Debian mirror (suite `{0}`): the lab host is built from Debian packages"
    )]
    NoMirror(String),
    /// The mirror has no kernel of this series.
    #[error("no linux-image-amd64 of series {0} in the package sources")]
    NoKernel(Series),
    /// The kernel was not provisioned.
    #[error("kernel {0} is not there yet: run `lab provision --kernel {0}`")]
    NotProvisioned(Series),
    /// A kernel module that was asked for does not exist.
    #[error("kernel {release} has no module `{module}`")]
    NoModule {
        /// The kernel.
        release: String,
        /// The module.
        module: String,
    },
    /// The `lab` binary, which runs as the agent inside, was not found.
    #[error("no `lab` binary at {}: build it (`cargo build -p lab`) or set LAB_AGENT", .0.display())]
    NoAgent(PathBuf),
    /// A device description was not understood.
    #[error("device `{0}`: {1}")]
    Device(String, String),
    /// QEMU ended before the lab host's kernel said anything: it was asked for something it cannot do.
    #[error("QEMU did not start the lab host:\n{0}")]
    Refused(String),
    /// The lab host did not come up.
    #[error("the lab host was not up after {tries} tries; its console is in {}", console.display())]
    Boot {
        /// How often it was tried.
        tries: u32,
        /// The kept console output.
        console: PathBuf,
    },
    /// The lab host ended while it was needed.
    #[error("the lab host is gone; its console is in {}", console.display())]
    Gone {
        /// The kept console output.
        console: PathBuf,
    },
    /// A CPU of the lab host does not wake up any more, and what waits for it never ends.
    #[error("CPU {cpu} of the lab host was not heard of for {seconds} s; its console is in {}", console.display())]
    Stalled {
        /// Which one.
        cpu: u16,
        /// The patience.
        seconds: u64,
        /// The kept console output.
        console: PathBuf,
    },
    /// The agent could not start a command.
    #[error("in the lab host: {0}")]
    Agent(String),
    /// A command took longer than it may.
    #[error("in the lab host: `{command}` was not done after {seconds} s")]
    Timeout {
        /// The command.
        command: String,
        /// The patience.
        seconds: u64,
    },
    /// A command in the lab host ended badly, where success was needed.
    #[error("in the lab host: `{command}` failed ({status}): {stderr}")]
    Command {
        /// The command.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// A message on the agent's line or an ivshmem socket was malformed or could not be sent.
    #[error("{what}: {source}")]
    Line {
        /// Which line.
        what: &'static str,
        /// What went wrong.
        source: io::Error,
    },
}

impl Error {
    /// Whether the lab host did not do something in time, has stalled, or is gone: nothing that it has said.
    #[must_use]
    pub fn is_stall(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Stalled { .. } | Self::Gone { .. })
    }
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names the file in an I/O error.
pub trait At<T> {
    /// Turns an I/O error into one that names the action and the file.
    ///
    /// # Errors
    /// The I/O error, as [`Error::File`].
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::File { action, path: path.into(), source: source.into() })
    }
}
