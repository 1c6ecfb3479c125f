//! The event loop of the main thread, and side loops for subscribers that may block in the host.
//!
//! Subscribers are added before the guest starts. The loop ends when the run's [`ExitEvent`] is signalled. Each
//! signal has a socket, which makes it an event like the others: SIGTERM, SIGINT and SIGHUP end the run, SIGUSR1
//! writes the report.

use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use vmm_sys_util::timerfd::TimerFd;

use crate::error::{Context, Result};
use crate::outcome::{ExitEvent, Outcome, PanicGuard};
use crate::sandbox::{self, Kind};
use crate::sched;

/// A subscriber of an event loop.
pub type Subscriber = Arc<Mutex<dyn MutEventSubscriber + Send>>;

/// An event loop.
pub struct EventLoop {
    manager: EventManager<Subscriber>,
    exit_event: Arc<ExitEvent>,
}

impl EventLoop {
    /// Creates a loop that ends when `exit_event` is signalled.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if epoll is not available.
    pub fn new(exit_event: Arc<ExitEvent>) -> Result<Self> {
        let mut manager = EventManager::<Subscriber>::new().context("creating the event loop")?;
        manager.add_subscriber(Arc::new(Mutex::new(ExitWatcher(Arc::clone(&exit_event)))));
        Ok(Self { manager, exit_event })
    }

    /// Adds a subscriber.
    pub fn add(&mut self, subscriber: Subscriber) {
        self.manager.add_subscriber(subscriber);
    }

    /// Runs until the exit event is signalled, and returns the outcome.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if epoll fails.
    pub fn run(mut self) -> Result<Outcome> {
        loop {
            if let Some(outcome) = self.exit_event.take() {
                return Ok(outcome);
            }
            self.manager.run().context("waiting for events")?;
        }
    }
}

/// An event loop on its own thread, with `SCHED_BATCH`: it does not preempt vCPUs. Dropping it ends the loop.
pub struct SideLoop {
    /// Ends this loop, not the run.
    exit_event: Arc<ExitEvent>,
    thread: Option<JoinHandle<()>>,
}

impl SideLoop {
    /// Serves a subscriber. An error of the loop ends the run.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if the host refuses the thread or the loop.
    pub fn start(name: &str, subscriber: Subscriber, run: &Arc<ExitEvent>) -> Result<Self> {
        let exit_event = ExitEvent::new()?;
        let mut events = EventLoop::new(Arc::clone(&exit_event))?;
        events.add(subscriber);
        let run =
            PanicGuard { exit_event: Arc::clone(run), context: format!("running the thread for {name}") };
        let serve = move || {
            if let Err(error) = sched::set_batch() {
                tracing::info!("cannot set SCHED_BATCH for a side thread, it may preempt vcpus: {error}");
            }
            sandbox::enter(Kind::Maintenance);
            if let Err(error) = events.run() {
                run.exit_event.signal(Outcome::Failed(error));
            }
        };
        let thread = Builder::new().name(name.to_owned()).spawn(serve);
        Ok(Self { exit_event, thread: Some(thread.context(format!("starting a thread for {name}"))?) })
    }
}

impl Drop for SideLoop {
    fn drop(&mut self) {
        self.exit_event.signal(Outcome::PoweredOff);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of an event loop panicked");
        }
    }
}

/// A periodic timer for what the host refused: the owner retries each time that it expires.
#[derive(Debug)]
pub struct RetryTimer(TimerFd);

impl RetryTimer {
    /// The longest delay between the host's ability to serve a request and the retry.
    pub const PERIOD: Duration = Duration::from_millis(100);

    /// Starts the timer.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if the host cannot create or start a timer.
    pub fn start() -> Result<Self> {
        let mut timer = TimerFd::new().context("creating a timer")?;
        timer.reset(Self::PERIOD, Some(Self::PERIOD)).context("starting a timer")?;
        Ok(Self(timer))
    }

    /// Clears the expiration. Call this when the descriptor is readable.
    pub fn acknowledge(&mut self) {
        if let Err(error) = self.0.wait() {
            tracing::warn!("cannot read a retry timer: {error}");
        }
    }
}

impl AsRawFd for RetryTimer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Wakes the loop when the exit event is signalled. The loop then takes the outcome.
struct ExitWatcher(Arc<ExitEvent>);

impl MutEventSubscriber for ExitWatcher {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {}

    fn init(&mut self, ops: &mut EventOps) {
        watch(ops, self.0.eventfd());
    }
}

/// The signals that the VMM handles.
pub struct Signals<R> {
    sockets: Vec<(i32, UnixStream)>,
    exit_event: Arc<ExitEvent>,
    report: R,
}

impl<R: FnMut()> Signals<R> {
    /// Installs the signal handlers. `report` is called for SIGUSR1.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if the host refuses a socket or a handler.
    pub fn handle(exit_event: Arc<ExitEvent>, report: R) -> Result<Self> {
        let mut sockets = Vec::new();
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGUSR1] {
            let (receiver, sender) = UnixStream::pair().context("creating a signal's socket")?;
            receiver.set_nonblocking(true).context("creating a signal's socket")?;
            signal_hook::low_level::pipe::register(signal, sender).context("registering a signal")?;
            sockets.push((signal, receiver));
        }
        Ok(Self { sockets, exit_event, report })
    }
}

impl<R: FnMut()> MutEventSubscriber for Signals<R> {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        let came = self.sockets.iter_mut().find(|(_, socket)| socket.as_raw_fd() == events.fd());
        let Some((signal, socket)) = came else { return };
        // Each signal writes one byte. Several signals at once count as one.
        let mut bytes = [0; 64];
        if !matches!(socket.read(&mut bytes), Ok(1..)) {
            return;
        }
        match *signal {
            SIGUSR1 => (self.report)(),
            signal => self.exit_event.signal(Outcome::Stopped(signal)),
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        for (_, socket) in &self.sockets {
            watch(ops, socket);
        }
    }
}

/// Watches a descriptor for input.
fn watch(ops: &mut EventOps, source: &impl AsRawFd) {
    if let Err(error) = ops.add(Events::new(source, EventSet::IN)) {
        tracing::error!("an event source cannot be watched: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;
    use std::time::Instant;

    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;

    /// A subscriber that panics when its descriptor is ready.
    struct Panics(EventFd);

    impl MutEventSubscriber for Panics {
        fn process(&mut self, _events: Events, _ops: &mut EventOps) {
            panic!("as it was told");
        }

        fn init(&mut self, ops: &mut EventOps) {
            watch(ops, &self.0);
        }
    }

    /// A subscriber that reports the scheduling policy of its thread.
    struct Tells(EventFd, mpsc::Sender<i32>);

    impl MutEventSubscriber for Tells {
        fn process(&mut self, _events: Events, _ops: &mut EventOps) {
            let _ = self.1.send(sched::tests::policy());
        }

        fn init(&mut self, ops: &mut EventOps) {
            watch(ops, &self.0);
        }
    }

    #[test]
    fn a_side_loop_has_sched_batch() {
        let (run, ready) = (ExitEvent::new().unwrap(), EventFd::new(EFD_NONBLOCK).unwrap());
        let (tells, told) = mpsc::channel();
        ready.write(1).unwrap();
        let _side = SideLoop::start("a test", Arc::new(Mutex::new(Tells(ready, tells))), &run).unwrap();
        assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(libc::SCHED_BATCH));
    }

    #[test]
    fn a_panic_of_a_side_loop_ends_the_run_and_its_drop_does_not() {
        let (run, ready) = (ExitEvent::new().unwrap(), EventFd::new(EFD_NONBLOCK).unwrap());
        let start = || {
            let subscriber = Arc::new(Mutex::new(Panics(ready.try_clone().unwrap())));
            SideLoop::start("a test", subscriber, &run).unwrap()
        };
        drop(start());
        assert!(!run.is_signalled());
        let _failing = start();
        ready.write(1).unwrap();
        let start = Instant::now();
        while !run.is_signalled() && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(matches!(run.take(), Some(Outcome::Failed(_))));
    }

    #[test]
    fn signals_report_and_end() {
        let exit_event = ExitEvent::new().unwrap();
        let mut events = EventLoop::new(Arc::clone(&exit_event)).unwrap();
        let reports = Arc::new(AtomicU32::new(0));
        let (count, end) = (Arc::clone(&reports), Arc::clone(&exit_event));
        let signals = Signals::handle(exit_event, move || {
            count.fetch_add(1, Ordering::SeqCst);
            end.signal(Outcome::PoweredOff);
        });
        events.add(Arc::new(Mutex::new(signals.unwrap())));
        signal_hook::low_level::raise(SIGUSR1).unwrap();
        assert!(matches!(events.run().unwrap(), Outcome::PoweredOff));
        assert_eq!(reports.load(Ordering::SeqCst), 1);
    }
}
