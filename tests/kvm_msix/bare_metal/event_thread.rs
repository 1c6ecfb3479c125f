//! An embedder's event thread, which runs the maintenance of its functions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use event_manager::{EventManager, SubscriberOps};
use vm_msi::domain::DeviceDomain;
use vm_msi::events::MaintenanceSubscriber;
use vm_msi::maintenance::{Maintenance, Requests};
use vm_msi::{InterruptFunction, Registers};

use super::guest::eventually;

/// Longer than until a refused step is tried again.
const QUIET: Duration = Duration::from_millis(300);

/// The thread. It ends when this is dropped.
pub(crate) struct EventThread {
    ends: Arc<AtomicBool>,
    events: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl EventThread {
    /// Starts the thread of these functions.
    pub(crate) fn start<C>(
        functions: impl IntoIterator<Item = Arc<InterruptFunction<C, DeviceDomain>>>,
    ) -> Self
    where
        C: Registers + 'static,
    {
        let mut manager = EventManager::new().unwrap();
        for function in functions {
            let maintenance = Maintenance::new(function, Requests::InAccess).unwrap();
            manager.add_subscriber(Arc::new(MaintenanceSubscriber::new(Arc::new(maintenance))));
        }
        let (ends, events) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, counted) = (ends.clone(), events.clone());
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                counted.fetch_add(manager.run_with_timeout(20).unwrap() as u64, Ordering::Relaxed);
            }
        });
        Self { ends, events, thread: Some(thread) }
    }

    /// Waits until all due work is done.
    pub(crate) fn wait_until_idle(&self) {
        let is_idle = || {
            let before = self.events();
            thread::sleep(QUIET);
            self.events() == before
        };
        eventually(is_idle, || "the event thread to become idle".to_owned());
    }

    /// How many events the thread has had.
    pub(crate) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }
}

impl Drop for EventThread {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the event thread failed");
    }
}
