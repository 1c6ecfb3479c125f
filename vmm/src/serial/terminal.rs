//! Raw mode of the terminal, for as long as the guest has it.
//!
//! Only a terminal is touched. It is given back by [`restore`], which the guard's drop, the panic hook and
//! the end of the process all call: the settings are kept in one process-wide place, and the first to come
//! restores them.

use std::io;
use std::sync::Mutex;

use rustix::termios::{self, OptionalActions, OutputModes, Termios};

/// The settings to go back to, while they are not in force.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal in raw mode; dropping it gives the terminal back.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Puts standard input's terminal in raw mode, if it is one.
    ///
    /// Output processing stays on, so that our own messages still start at the left.
    ///
    /// # Errors
    /// The host's, when it refuses the settings.
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

/// Restores the terminal, if it is in raw mode. May be called at any time, from any thread, in a panic too.
pub fn restore() {
    // `try_lock`: a panic while the lock is held must not wait for itself.
    if let Ok(mut saved) = SAVED.try_lock()
        && let Some(settings) = saved.take()
        && let Err(error) = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &settings)
    {
        tracing::error!("the terminal cannot be restored: {error}; `stty sane` does it");
    }
}

/// Gives the terminal back before a panic says what happened.
pub fn restore_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        report(info);
    }));
}
