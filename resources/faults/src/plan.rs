//! Which calls are refused, as a person writes it: `kvm-irqfd-attach=EMFILE/7` for about one in seven.

use std::collections::BTreeMap;
use std::str::FromStr;

use fastrand::Rng;
use rustix::io::Errno;

use crate::{Answer, Attempt, Call};

/// The errors that can be asked for, by name.
const ERRORS: [(&str, Errno); 8] = [
    ("EBUSY", Errno::BUSY),
    ("EINTR", Errno::INTR),
    ("EINVAL", Errno::INVAL),
    ("EIO", Errno::IO),
    ("EMFILE", Errno::MFILE),
    ("ENFILE", Errno::NFILE),
    ("ENOMEM", Errno::NOMEM),
    ("ENOSPC", Errno::NOSPC),
];

/// Which error of which call, and how often.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rule {
    /// The call.
    pub call: Call,
    /// The error.
    pub errno: Errno,
    /// One in so many, on average: 1 and more.
    pub one_in: u32,
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("`{text}` is not CALL=ERROR/N");
        let (call, rest) = text.split_once('=').ok_or_else(expected)?;
        let (error, one_in) = rest.split_once('/').ok_or_else(expected)?;
        let call = call.parse::<Call>().map_err(|error| error.to_string())?;
        let errno = ERRORS.iter().find(|(name, _)| *name == error);
        let errno = errno
            .ok_or_else(|| format!("`{error}` is none of {}", ERRORS.map(|(name, _)| name).join(", ")))?;
        let one_in = one_in.parse().ok().filter(|one_in| *one_in > 0).ok_or_else(expected)?;
        Ok(Self { call, errno: errno.1, one_in })
    }
}

/// Follows rules with random numbers of a seed, and counts.
#[derive(Debug)]
pub struct OneIn {
    rules: Vec<Rule>,
    threads: Vec<String>,
    random: Rng,
    counts: BTreeMap<&'static str, (u64, u64)>,
}

impl OneIn {
    /// Nothing was refused yet. Only calls of threads whose names begin with one of `threads` will be, or of all if there is none.
    #[must_use]
    pub fn new(rules: Vec<Rule>, threads: Vec<String>, seed: u64) -> Self {
        Self { rules, threads, random: Rng::with_seed(seed), counts: BTreeMap::new() }
    }

    /// The calls of the rules.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.rules.iter().map(|rule| rule.call).collect()
    }

    /// What becomes of a call. Of several rules for one call each has its chance.
    pub fn answer(&mut self, attempt: &Attempt) -> Answer {
        if !self.threads.is_empty() {
            let name = attempt.thread_name();
            if !self.threads.iter().any(|thread| name.starts_with(thread)) {
                return Answer::Make;
            }
        }
        let refused = self
            .rules
            .iter()
            .filter(|rule| rule.call == attempt.call)
            .find(|rule| self.random.u32(0..rule.one_in) == 0);
        let (seen, failed) = self.counts.entry(attempt.call.name()).or_default();
        *seen = seen.saturating_add(1);
        *failed = failed.saturating_add(refused.is_some().into());
        refused.map_or(Answer::Make, |rule| Answer::Fail(rule.errno))
    }
}

/// `kvm-irqfd-attach: 12 of 60 refused`, one call a line.
impl std::fmt::Display for OneIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.counts
            .iter()
            .try_for_each(|(call, (seen, failed))| writeln!(f, "{call}: {failed} of {seen} refused"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_it_is_written() {
        let rule = Rule { call: Call::KvmIrqfdAttach, errno: Errno::MFILE, one_in: 7 };
        assert_eq!("kvm-irqfd-attach=EMFILE/7".parse(), Ok(rule));
    }

    #[test]
    fn what_is_no_rule_is_refused_with_what_would_be() {
        for (text, expected) in [
            ("kvm-irqfd-attach", "CALL=ERROR/N"),
            ("kvm-irqfd-attach=EMFILE", "CALL=ERROR/N"),
            ("kvm-irqfd-attach=EMFILE/0", "CALL=ERROR/N"),
            ("kvm-irqfd=EMFILE/1", "vfio-set-irqs"),
            ("eventfd=ENOENT/1", "ENOSPC"),
        ] {
            let error = text.parse::<Rule>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
