//! How long a test waits for what must come. Time in which the machine was too busy to run this process does not count.
//!
//! The kernel tells for each thread how long it was ready to run and did not (the second number of
//! /proc/self/task/*/schedstat, in ns). A wait is a row of windows. It fails at the end of a window in which nothing came
//! and no thread was kept from running for long.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// Emulated hosts are slow, so it is far more than anything takes on a machine that has time.
const WINDOW: Duration = Duration::from_secs(30);
/// A thread that was ready for so much of a window, and did not run, may be what the test waits for.
const STARVED: Duration = Duration::from_secs(1);
/// The end of every wait, however busy the machine is.
const WINDOWS: u32 = 20;

/// One wait.
pub(crate) struct Patience {
    start: Instant,
    window: Instant,
    windows: u32,
    /// For each thread at the start of the window how long it had been kept from running. It is read first when a window
    /// has passed, so the first window never ends a wait.
    delays: Option<BTreeMap<String, Duration>>,
}

impl Patience {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { start: now, window: now, windows: 0, delays: None }
    }

    /// How long the wait has lasted.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Whether to wait on.
    pub(crate) fn is_left(&mut self) -> bool {
        if self.window.elapsed() < WINDOW {
            return true;
        }
        let now = delays();
        let before = self.delays.replace(now.clone());
        let starved = before.is_none_or(|before| {
            now.iter().any(|(thread, delay)| {
                delay.saturating_sub(before.get(thread).copied().unwrap_or_default()) > STARVED
            })
        });
        self.windows += 1;
        self.window = Instant::now();
        starved && self.windows < WINDOWS
    }
}

/// Empty where the kernel does not count.
fn delays() -> BTreeMap<String, Duration> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let delay = |thread: fs::DirEntry| {
        let counts = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let delay = counts.split_whitespace().nth(1)?.parse().ok()?;
        Some((thread.file_name().to_string_lossy().into_owned(), Duration::from_nanos(delay)))
    };
    threads.filter_map(delay).collect()
}
