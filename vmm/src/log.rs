//! What the VMM says of itself on standard error, and how often: a guest that has the host refuse the same thing for ever
//! fills no disk.
//!
//! Each kind of line, which is one place in the source, has room for some, and for one more every second. Those left out
//! are counted, and the next one of their kind comes after their number. What is said only for who asked for it
//! (`--log-level debug`, `trace`) comes whole.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::fmt::time::uptime;
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Lines of a kind that may come at once.
const BURST: u32 = 16;
/// How long it takes until there is room for one more.
const REFILL: Duration = Duration::from_secs(1);

/// From now on what is said up to this level is on standard error.
pub fn start(level: LevelFilter) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .with_timer(uptime());
    tracing_subscriber::registry().with(lines.with_filter(level.and(RateLimit::default()))).init();
}

/// Leaves out lines of kinds of which too many come.
#[derive(Default)]
struct RateLimit {
    buckets: Mutex<HashMap<Identifier, TokenBucket>>,
}

impl<S: Subscriber> Filter<S> for RateLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    /// No level less than without it: else every level would be asked for, also where nobody wants it.
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        if *event.metadata().level() > Level::INFO {
            return true;
        }
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(event.metadata().callsite()).or_insert_with(|| TokenBucket::new(now));
        match bucket.admit(now) {
            Some(0) => true,
            Some(left_out) => {
                // Nobody is left to be told that standard error takes nothing.
                let _ = writeln!(io::stderr(), "vmm: {left_out} lines like this one were left out:");
                true
            }
            None => false,
        }
    }
}

/// A kind of line.
struct TokenBucket {
    tokens: u32,
    /// When there was room for one more the last time.
    since: Instant,
    left_out: u64,
}

impl TokenBucket {
    fn new(now: Instant) -> Self {
        Self { tokens: BURST, since: now, left_out: 0 }
    }

    /// How many were left out before this line, which is to be said; none where it is left out too.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let refills = now.saturating_duration_since(self.since).as_secs() / REFILL.as_secs();
        if refills > 0 {
            self.tokens = self.tokens.saturating_add(u32::try_from(refills).unwrap_or(BURST)).min(BURST);
            self.since = now;
        }
        match self.tokens.checked_sub(1) {
            Some(tokens) => {
                self.tokens = tokens;
                Some(std::mem::take(&mut self.left_out))
            }
            None => {
                self.left_out = self.left_out.saturating_add(1);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn of_a_kind_some_lines_come_at_once_and_then_one_a_second_with_the_number_left_out() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start);
        let mut admit = |ms| bucket.admit(start + Duration::from_millis(ms));
        assert!((0..BURST).all(|_| admit(0) == Some(0)));
        assert_eq!([admit(1), admit(999)], [None, None]);
        assert_eq!([admit(1000), admit(1001)], [Some(2), None]);
        assert_eq!([admit(4000), admit(4000), admit(4000), admit(4000)], [Some(1), Some(0), Some(0), None]);
        let long_after = 1 << 45;
        assert_eq!(admit(long_after), Some(1));
        assert!((1..BURST).all(|_| admit(long_after) == Some(0)) && admit(long_after).is_none());
    }

    /// Where lines of a test go.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_nobody_asked_for_is_not_asked_about() {
        let filter = LevelFilter::WARN.and(RateLimit::default());
        let hint = Filter::<tracing_subscriber::Registry>::max_level_hint(&filter);
        assert_eq!(hint, Some(LevelFilter::WARN));
    }

    #[test]
    fn a_kind_that_is_left_out_leaves_room_for_others() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let filter = LevelFilter::DEBUG.and(RateLimit::default());
        tracing::subscriber::with_default(
            tracing_subscriber::registry().with(layer.with_filter(filter)),
            || {
                for number in 0..100 {
                    tracing::warn!("refused {number}");
                    tracing::debug!("looked at {number}");
                }
                tracing::warn!("another");
            },
        );
        let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let count = |what| lines.matches(what).count();
        assert_eq!(
            (count("refused"), count("looked at"), count("another")),
            (BURST as usize, 100, 1),
            "{lines}"
        );
    }
}
