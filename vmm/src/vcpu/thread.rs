//! The vCPU threads: started and stopped together.
//!
//! To stop a thread, the owner sets a flag and sends a signal, which interrupts KVM_RUN. A signal between the
//! thread's check of the flag and KVM_RUN has no effect. The owner therefore repeats it until the thread has ended. A
//! panic of a thread ends the run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use vmm_sys_util::signal::{Killable, SIGRTMIN};

use super::Vcpu;
use super::exit::{ExitAction, run_once};
use super::run_page::RunPage;
use crate::error::{Context, Result};
use crate::outcome::{Outcome, PanicGuard};
use crate::sandbox::{self, Kind};

/// The interval between two signals to a running thread.
const KICK_INTERVAL: Duration = Duration::from_millis(1);

/// The running vCPUs. Dropping this stops them.
pub struct Threads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts a thread for each vCPU. No vCPU runs before all threads have started and `confine` has returned.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if the host refuses the signal handler or a thread.
    pub fn start(vcpus: Vec<Vcpu>, confine: impl FnOnce()) -> Result<Self> {
        // The handler only makes the signal interrupt KVM_RUN. Nothing reads its flag.
        signal_hook::flag::register(SIGRTMIN(), Arc::default()).context("registering the vcpus' signal")?;
        let mut started = Self { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() };
        // Released before `started` is dropped, which waits for the threads.
        let gate = Arc::new(RwLock::new(()));
        let closed = gate.write().unwrap_or_else(PoisonError::into_inner);
        for vcpu in vcpus {
            let (stop, gate) = (Arc::clone(&started.stop), Arc::clone(&gate));
            let name = format!("vcpu {}", vcpu.index);
            let run = move || {
                sandbox::enter(Kind::Vcpu);
                drop(gate.read());
                run(vcpu, &stop);
            };
            let thread = Builder::new().name(name).spawn(run);
            started.threads.push(thread.context("starting a vcpu's thread")?);
        }
        confine();
        drop(closed);
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
        match run_once(&mut vcpu.fd, &vcpu.shared, &page) {
            ExitAction::Run | ExitAction::Interrupted => {}
            ExitAction::End(outcome) => return vcpu.shared.exit_event.signal(outcome),
            ExitAction::Crash(what) => {
                return vcpu.shared.exit_event.signal(Outcome::Crashed(vcpu.crash(what)));
            }
        }
    }
}
