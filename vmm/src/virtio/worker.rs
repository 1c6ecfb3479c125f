//! The threads of a device's lanes. Neither a vCPU nor the event loop waits for them.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use super::lane_loop::{LaneLoop, Turn};
use super::transport::Transport;
use crate::error::{Context, Error, Result};
use crate::outcome::{ExitEvent, Outcome, PanicGuard};
use crate::sandbox::{self, Kind};

/// The threads of a device, one for each lane. Dropping it stops them.
#[derive(Default)]
pub struct Workers {
    device: Option<Arc<Transport>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts a thread for each lane. An error or a panic of a thread ends the run.
    ///
    /// # Errors
    /// [`Error::Host`] if the host refuses a thread.
    pub fn start(transport: Arc<Transport>, lanes: Vec<LaneLoop>, run: &Arc<ExitEvent>) -> Result<Self> {
        let name = transport.device().identity().name;
        let mut workers = Self { device: Some(transport), threads: Vec::new() };
        for (number, lane) in lanes.into_iter().enumerate() {
            let context = format!("running a thread of virtio {name}");
            let guard = PanicGuard { exit_event: Arc::clone(run), context: context.clone() };
            let serve = move || {
                sandbox::enter(Kind::of_virtio(name));
                serve(lane, &guard);
            };
            let thread = Builder::new().name(format!("virtio {name}.{number}")).spawn(serve);
            workers.threads.push(thread.context(context)?);
        }
        Ok(workers)
    }

    /// Stops the threads, after the requests in flight. Does nothing if they have stopped.
    pub fn stop(&mut self) {
        if let Some(transport) = self.device.take() {
            transport.end();
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a virtio device's thread panicked");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(mut lane: LaneLoop, run: &PanicGuard) {
    loop {
        match lane.turn(None) {
            Ok(Turn::Served | Turn::Idle) => {}
            Ok(Turn::Ended) => return,
            Err(error) => {
                return run.exit_event.signal(Outcome::Failed(Error::host(&run.context, error)));
            }
        }
    }
}
