//! The log on standard error or in a file, rate-limited: a guest that makes the host refuse the same request forever must not fill
//! a disk.
//!
//! Each call site has a token bucket of 16 lines, refilled by one line a second. Suppressed lines are counted, and
//! the count precedes the next line of the call site. The levels debug and trace are not limited.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::fmt::time::uptime;
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::{Error, Result};

/// Lines of one call site that may be logged at once.
const BURST: u32 = 16;
/// The time after which a call site may log one more line.
const REFILL: Duration = Duration::from_secs(1);

/// Starts the log up to this level, on standard error or at the end of a file.
///
/// # Errors
/// [`Error::Input`] if the file cannot be opened.
pub fn start(level: LevelFilter, file: Option<&Path>) -> Result<()> {
    let sink = match file {
        None => Sink::Stderr,
        Some(path) => {
            let opened = File::options().append(true).create(true).open(path);
            let name = || format!("--log-file {}", path.display());
            Sink::File(Arc::new(opened.map_err(|error| Error::input(name(), error))?))
        }
    };
    let writer = sink.clone();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || writer.clone())
        .with_ansi(matches!(sink, Sink::Stderr) && io::stderr().is_terminal())
        .with_target(false)
        .with_timer(uptime());
    tracing_subscriber::registry().with(lines.with_filter(level.and(RateLimit::new(sink)))).init();
    Ok(())
}

/// Where the lines go.
#[derive(Clone)]
enum Sink {
    Stderr,
    File(Arc<File>),
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stderr => io::stderr().write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Suppresses lines of call sites that log too often.
struct RateLimit {
    sink: Sink,
    buckets: Mutex<HashMap<Identifier, TokenBucket>>,
}

impl RateLimit {
    fn new(sink: Sink) -> Self {
        Self { sink, buckets: Mutex::default() }
    }
}

impl<S: Subscriber> Filter<S> for RateLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    /// The filter limits no level by itself. Without this hint, every level would be enabled.
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
            Some(suppressed) => {
                // A write error of the log cannot be reported anywhere.
                let _ =
                    writeln!(self.sink.clone(), "vmm: {suppressed} lines like the next one were suppressed:");
                true
            }
            None => false,
        }
    }
}

/// The token bucket of a call site.
struct TokenBucket {
    tokens: u32,
    /// The time of the last refill.
    since: Instant,
    suppressed: u64,
}

impl TokenBucket {
    fn new(now: Instant) -> Self {
        Self { tokens: BURST, since: now, suppressed: 0 }
    }

    /// Takes a token. Returns the number of lines suppressed since the last one, or `None` to suppress this line.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let refills = now.saturating_duration_since(self.since).as_secs() / REFILL.as_secs();
        if refills > 0 {
            self.tokens = self.tokens.saturating_add(u32::try_from(refills).unwrap_or(BURST)).min(BURST);
            self.since = now;
        }
        match self.tokens.checked_sub(1) {
            Some(tokens) => {
                self.tokens = tokens;
                Some(std::mem::take(&mut self.suppressed))
            }
            None => {
                self.suppressed = self.suppressed.saturating_add(1);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_site_logs_16_lines_at_once_and_then_one_a_second_with_the_suppressed_count() {
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

    /// Captures the lines of a test.
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
    fn the_filter_does_not_enable_lower_levels() {
        let filter = LevelFilter::WARN.and(RateLimit::new(Sink::Stderr));
        let hint = Filter::<tracing_subscriber::Registry>::max_level_hint(&filter);
        assert_eq!(hint, Some(LevelFilter::WARN));
    }

    #[test]
    fn a_suppressed_call_site_does_not_affect_others() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let filter = LevelFilter::DEBUG.and(RateLimit::new(Sink::Stderr));
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
