//! The embedder's functions around a window, such as those that disable and enable INTx.

use std::fmt;
use std::io;

use crate::backend::BackendError;

/// The embedder's functions around a window. See [`DeviceDomain::set_window_hooks`](crate::DeviceDomain::set_window_hooks).
pub(in crate::domain) struct WindowHooks {
    pub(in crate::domain) before_open: Box<dyn FnMut() -> io::Result<()> + Send>,
    pub(in crate::domain) after_close: Box<dyn FnMut() + Send>,
}

impl Default for WindowHooks {
    fn default() -> Self {
        Self { before_open: Box::new(|| Ok(())), after_close: Box::new(|| ()) }
    }
}

impl fmt::Debug for WindowHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WindowHooks").finish_non_exhaustive()
    }
}

impl WindowHooks {
    pub(super) fn before_open(&mut self, asked: u32) -> Result<(), BackendError> {
        (self.before_open)().map_err(|source| BackendError::Open { asked, source })
    }

    pub(super) fn after_close(&mut self) {
        (self.after_close)();
    }
}
