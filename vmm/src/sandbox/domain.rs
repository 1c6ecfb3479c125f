//! The Landlock domain of the VMM's threads: the files that they can still open, make and remove by name.
//!
//! Invariant: a thread in the domain opens no file but `/proc/interrupts`, and changes no directory but those of the report and of the
//! socket device. Descriptors that are open already keep the rights that they were opened with, ioctl included.
//!
//! Landlock restricts the calling thread, not those that exist already. Each thread enters the domain itself. Signals are not scoped:
//! before Linux 6.15, threads that have entered one by one could not signal each other, and seccomp limits signals to this process.

use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, Scope, make_bitflags,
};

use crate::error::{Context, Result};
use crate::printable::Printable;
use crate::report::ReportTarget;
use crate::vfio::host_interrupts;

/// The newest interface of the kernel that is asked for. An older kernel restricts what it can.
const NEWEST: ABI = ABI::V10;
/// A report is written to a file beside the old one, which it then replaces.
const REPLACE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{WriteFile | Truncate | MakeReg | RemoveFile});
/// The socket's file is removed at the end, and programs of the host listen at names beside it.
const SOCKETS: BitFlags<AccessFs> = make_bitflags!(AccessFs::{RemoveFile | ResolveUnix});

/// What the VMM uses by name while a guest runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Named<'a> {
    /// The destination of the report.
    pub report: Option<&'a ReportTarget>,
    /// The Unix socket of the socket device.
    pub socket: Option<&'a Path>,
}

/// The domain, before a thread enters it.
#[derive(Debug)]
pub(super) struct Domain {
    ruleset: RulesetCreated,
    /// A rule is about an inode. procfs makes a new one after it has dropped a file that nothing holds.
    held: Vec<PathFd>,
}

impl Domain {
    /// Makes the domain. `None` if the host has no Landlock: a warning says so.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if the host refuses a ruleset or a rule.
    pub(super) fn new(named: Named) -> Result<Option<Self>> {
        let ruleset = || {
            Ruleset::default()
                .handle_access(AccessFs::from_all(NEWEST))?
                .handle_access(AccessNet::from_all(NEWEST))?
                .scope(Scope::AbstractUnixSocket)?
                .create()
        };
        let context = "making a Landlock ruleset";
        let ruleset = ruleset().context(context)?;
        let descriptor: Option<OwnedFd> = ruleset.try_clone().context(context)?.into();
        if descriptor.is_none() {
            tracing::warn!(
                "this host has no Landlock: a guest that takes over the main thread could open files of the VMM's user"
            );
            return Ok(None);
        }
        let mut domain = Self { ruleset, held: Vec::new() };
        if named.report.is_some() {
            domain = domain.with(Path::new(host_interrupts::PATH), AccessFs::ReadFile.into())?;
        }
        if let Some(ReportTarget::File(path)) = named.report {
            domain = domain.with(directory(path), REPLACE)?;
        }
        if let Some(path) = named.socket {
            domain = domain.with(directory(path), SOCKETS)?;
        }
        Ok(Some(domain))
    }

    /// Allows this access to a file, or to what is in a directory.
    fn with(mut self, path: &Path, access: BitFlags<AccessFs>) -> Result<Self> {
        match PathFd::new(path) {
            Ok(opened) => {
                let rule = PathBeneath::new(&opened, access);
                self.ruleset = self.ruleset.add_rule(rule).context("adding a Landlock rule")?;
                self.held.push(opened);
            }
            // What needs it fails later, and says so.
            Err(error) => {
                let error = Printable(format_args!("{error}"));
                tracing::warn!("closed to the VMM while the guest runs: {error}");
            }
        }
        Ok(self)
    }

    /// Restricts the calling thread.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if the host refuses.
    pub(super) fn enter(&self) -> Result<()> {
        let ruleset = self.ruleset.try_clone().context("duplicating the Landlock ruleset")?;
        ruleset.restrict_self().map(drop).context("entering the Landlock domain")
    }
}

/// The directory that a file is in.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
