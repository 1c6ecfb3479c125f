//! The seccomp programs of a kind of thread.
//!
//! A thread has up to two: one traps each call that is in no list, and one lets calls for files' names fail. The kernel takes the
//! stricter answer, and a trap is stricter than an error: the calls that fail are in the list of the first program, too.

use std::collections::BTreeMap;

use libc::{
    PROT_EXEC, SYS_fcntl, SYS_ioctl, SYS_madvise, SYS_mmap, SYS_mprotect, SYS_prctl, SYS_socket, SYS_tgkill,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use super::Kind;
use super::calls::{REFUSED, RUNTIME};
use super::ioctls;
use crate::error::{Context, Result};

/// F_DUPFD to F_SETFL, F_DUPFD_CLOEXEC.
const FCNTL: &[u64] = &[
    libc::F_DUPFD as u64,
    libc::F_GETFD as u64,
    libc::F_SETFD as u64,
    libc::F_GETFL as u64,
    libc::F_SETFL as u64,
    libc::F_DUPFD_CLOEXEC as u64,
];

/// A thread's name, and names of mappings.
const PRCTL: &[u64] = &[libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, libc::PR_SET_VMA as u64];

/// MADV_NORMAL to MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_POPULATE_READ,
/// MADV_POPULATE_WRITE, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE.
const MADVISE: &[u64] = &[0, 1, 2, 3, 4, 8, 14, 15, 16, 22, 23, 102, 103];

/// The programs of a kind.
pub(super) struct Filters(Vec<BpfProgram>);

impl Filters {
    /// Makes the programs.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if a list is too long for a program.
    pub(super) fn of(kind: Kind) -> Result<Self> {
        let mut allowed = BTreeMap::new();
        let free = RUNTIME.iter().chain(kind.calls());
        allowed
            .extend(free.chain(if kind.has_no_files() { REFUSED } else { &[] }).map(|call| (*call, vec![])));
        let requests = kind.ioctls().iter().copied().chain([ioctls::RUNTIME]).flatten();
        allowed.insert(SYS_ioctl, one_of(1, requests)?);
        allowed.insert(SYS_fcntl, one_of(1, FCNTL)?);
        allowed.insert(SYS_prctl, one_of(0, PRCTL)?);
        allowed.insert(SYS_madvise, one_of(2, MADVISE)?);
        let without = SeccompCmpOp::MaskedEq(PROT_EXEC as u64);
        for call in [SYS_mmap, SYS_mprotect] {
            allowed.insert(call, vec![rule(2, without.clone(), 0)?]);
        }
        allowed.insert(SYS_tgkill, vec![rule(0, SeccompCmpOp::Eq, std::process::id().into())?]);
        if kind.makes_sockets() {
            allowed.insert(SYS_socket, one_of(0, &[libc::AF_UNIX as u64])?);
        }
        let mut programs = vec![program(allowed, SeccompAction::Trap, SeccompAction::Allow)?];
        if kind.has_no_files() {
            let refused = REFUSED.iter().map(|call| (*call, vec![])).collect();
            let refuse = SeccompAction::Errno(libc::EACCES as u32);
            programs.push(program(refused, SeccompAction::Allow, refuse)?);
        }
        Ok(Self(programs))
    }

    /// Installs the programs for the calling thread. The trapping one is last: the call that installs is in no list.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if the host has no seccomp filters, or no memory.
    pub(super) fn install(&self) -> Result<()> {
        for program in self.0.iter().rev() {
            apply_filter(program).context("installing a thread's seccomp filter")?;
        }
        Ok(())
    }
}

/// Allows each of these values of an argument. The kernel reads 32 bits of those in use here.
fn one_of<'a>(argument: u8, values: impl IntoIterator<Item = &'a u64>) -> Result<Vec<SeccompRule>> {
    values.into_iter().map(|value| rule(argument, SeccompCmpOp::Eq, *value)).collect()
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value);
    let rule = condition.and_then(|condition| SeccompRule::new(vec![condition]));
    rule.context("making a rule of a seccomp filter")
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram> {
    let filter = SeccompFilter::new(rules, otherwise, matched, TargetArch::x86_64);
    filter.and_then(BpfProgram::try_from).context("making a seccomp filter")
}
