//! Raw mode of the terminal while the guest uses it.
//!
//! [`restore`] restores the terminal. The guard's drop and the panic hook both call it. The saved settings are
//! process-wide, and the first call restores them.

use std::io;
use std::sync::Mutex;

use rustix::termios::{self, OptionalActions, OutputModes, Termios};

/// The saved settings while raw mode is active.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal in raw mode. Dropping it restores the terminal.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Puts standard input's terminal in raw mode. Returns `None` if it is no terminal.
    ///
    /// Output processing stays enabled, so that log lines start in column 0.
    ///
    /// # Errors
    /// The host's error if it refuses the settings.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = rustix::stdio::stdin();
        if !termios::isatty(stdin) {
            return Ok(None);
        }
        let before = termios::tcgetattr(stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        raw.output_modes |= before.output_modes & (OutputModes::OPOST | OutputModes::ONLCR);
        if let Ok(mut saved) = SAVED.lock() {
            *saved = Some(before);
        }
        termios::tcsetattr(stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal if it is in raw mode. Any thread may call this at any time, even in a panic.
pub fn restore() {
    if let Err(error) = give_back() {
        tracing::error!("the terminal cannot be restored: {error}; `stty sane` does it");
    }
}

/// Like [`restore`], without a message: it does not allocate.
pub(crate) fn restore_in_signal_handler() {
    // The process ends anyhow.
    let _ = give_back();
}

fn give_back() -> rustix::io::Result<()> {
    // `try_lock`: a panic or a signal under the lock must not deadlock.
    let saved = SAVED.try_lock().ok().and_then(|mut saved| saved.take());
    saved.map_or(Ok(()), |settings| {
        termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &settings)
    })
}

/// Makes a panic restore the terminal before it prints its message. A panic of the search of a disk image is an error of that image,
/// and prints nothing.
pub fn restore_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if crate::boot::disk::is_current() {
            return tracing::debug!("{info}");
        }
        restore();
        report(info);
    }));
}
