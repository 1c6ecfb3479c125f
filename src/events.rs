//! A function's [`Maintenance`] as a subscriber of an embedder's `event-manager`.

use std::sync::Arc;

use event_manager::{EventOps, EventSet, EventSubscriber, Events};

use crate::maintenance::Maintenance;

/// Runs a function's maintenance when it is due. Add it to an event manager at once.
///
/// The host may refuse to watch the descriptor, because it limits the watches of a user's epolls. The
/// subscriber logs that. An embedder that cannot rule this out must also call [`Maintenance::run`] from time
/// to time.
#[derive(Debug)]
pub struct MaintenanceSubscriber(Arc<Maintenance>);

impl MaintenanceSubscriber {
    /// The subscriber for one function's maintenance.
    pub fn new(maintenance: Arc<Maintenance>) -> Self {
        Self(maintenance)
    }
}

impl EventSubscriber for MaintenanceSubscriber {
    fn process(&self, _events: Events, _ops: &mut EventOps) {
        self.0.run();
    }

    fn init(&self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&*self.0, EventSet::IN)) {
            log::error!("a device's interrupts have no maintenance: {error}");
        }
    }
}
