//! The vCPUs' threads: started together, stopped together.
//!
//! A thread is told to stop by a flag and a signal that takes it out of KVM_RUN. A signal that comes between
//! the look at the flag and KVM_RUN has no effect, so it is sent again until the thread is gone. A thread
//! that panics ends the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use vmm_sys_util::signal::{Killable, SIGRTMIN};

use super::Vcpu;
use super::exit::{ExitAction, run_once};
use super::run_page::RunPage;
use crate::error::{Context, Result};
use crate::outcome::{Outcome, PanicGuard};

/// How long to wait before a thread that still runs is signalled again.
const KICK_INTERVAL: Duration = Duration::from_millis(1);

/// The running vCPUs. Dropping them stops them.
pub struct Threads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Runs each vCPU on a thread of its own.
    ///
    /// # Errors
    /// The host's, when it refuses the signal handler or a thread.
    pub fn start(vcpus: Vec<Vcpu>) -> Result<Self> {
        // A handler is all that is wanted, so that the signal interrupts KVM_RUN; what it sets nobody reads.
        signal_hook::flag::register(SIGRTMIN(), Arc::default()).context("registering the vcpus' signal")?;
        let mut started = Self { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() };
        for vcpu in vcpus {
            let stop = Arc::clone(&started.stop);
            let thread = Builder::new().name(format!("vcpu {}", vcpu.index)).spawn(move || run(vcpu, &stop));
            started.threads.push(thread.context("starting a vcpu's thread")?);
        }
        Ok(started)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            while !thread.is_finished() {
                if let Err(error) = thread.kill(SIGRTMIN()) {
                    tracing::debug!("a vcpu's thread cannot be signalled: {error}");
                }
                std::thread::sleep(KICK_INTERVAL);
            }
            if thread.join().is_err() {
                tracing::error!("a vcpu's thread panicked");
            }
        }
    }
}

fn run(mut vcpu: Vcpu, stop: &AtomicBool) {
    let _guard =
        PanicGuard { exit_event: Arc::clone(&vcpu.shared.exit_event), context: "running a vcpu".to_owned() };
    let page = RunPage::of(&mut vcpu.fd);
    while !stop.load(Ordering::SeqCst) {
        match run_once(&mut vcpu.fd, &vcpu.shared.buses, &page) {
            ExitAction::Run | ExitAction::Interrupted => {}
            ExitAction::End(outcome) => return vcpu.shared.exit_event.signal(outcome),
            ExitAction::Crash(what) => {
                return vcpu.shared.exit_event.signal(Outcome::Crashed(vcpu.crash(what)));
            }
        }
    }
}
