//! Whether each CPU of a lab host still wakes up: the agent's half, and ours.
//!
//! Now and then an emulated CPU loses its timer or every interrupt (see [`cpus`](crate::cpus)). What waits for it then
//! waits for ever, and so does everything that waits for an RCU grace period. A thread on each CPU sleeps by that CPU's
//! timer and reports. A CPU that was heard of, and is silent for [`PATIENCE`] now, has stalled.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::{At, Result};

/// How often a CPU reports.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a CPU that works may take to report, on a machine with several times the load that it has CPUs for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// In the lab host: has each CPU that this process may use report, from now on.
pub(crate) fn start(report: impl Fn(u16) + Clone + Send + 'static) -> Result<()> {
    let cpus = sched_getaffinity(None).at("read", "the CPUs of this process")?;
    for cpu in (0..u16::MAX).take(CpuSet::MAX_CPU).filter(|&cpu| cpus.is_set(cpu.into())) {
        let report = report.clone();
        let mut only = CpuSet::new();
        only.set(cpu.into());
        thread::Builder::new()
            .name(format!("pulse-{cpu}"))
            .spawn(move || {
                // On another CPU it would report for that one.
                while sched_setaffinity(None, &only).is_ok() {
                    report(cpu);
                    thread::sleep(PERIOD);
                }
            })
            .at("start", "a thread")?;
    }
    Ok(())
}

/// When each CPU of a lab host was last heard of.
#[derive(Debug, Default)]
pub(crate) struct Pulses {
    heard: Mutex<HashMap<u16, Instant>>,
}

impl Pulses {
    /// A CPU has reported.
    pub(crate) fn hear(&self, cpu: u16, now: Instant) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(cpu, now);
    }

    /// The CPU that has been silent for longest, if that is too long.
    pub(crate) fn stalled(&self, now: Instant) -> Option<u16> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let (&cpu, &last) = heard.iter().min_by_key(|&(_, last)| last)?;
        (now.saturating_duration_since(last) >= PATIENCE).then_some(cpu)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_cpu_that_falls_silent_is_found_and_one_never_heard_of_is_not_missed() {
        let (pulses, start) = (Pulses::default(), Instant::now());
        assert_eq!(pulses.stalled(start + PATIENCE), None);
        pulses.hear(0, start);
        pulses.hear(1, start + PERIOD);
        assert_eq!(pulses.stalled(start + PATIENCE - PERIOD), None);
        assert_eq!(pulses.stalled(start + PATIENCE), Some(0));
        pulses.hear(0, start + 2 * PERIOD);
        assert_eq!(pulses.stalled(start + PATIENCE), None);
        assert_eq!(pulses.stalled(start + PATIENCE + PERIOD), Some(1));
    }

    #[test]
    fn each_cpu_of_the_process_reports() {
        let (sender, reports) = mpsc::channel();
        super::start(move |cpu| sender.send(cpu).unwrap_or(())).unwrap();
        let mut missing = sched_getaffinity(None).unwrap();
        while missing.count() > 0 {
            missing.unset(reports.recv_timeout(PATIENCE).unwrap().into());
        }
    }
}
