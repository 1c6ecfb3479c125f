//! The size of the terminal, which SIGWINCH announces.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use signal_hook::consts::SIGWINCH;

use crate::error::{Context, Result};
use crate::virtio::device_config::DeviceConfig;

/// A terminal's size in characters. Zero is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Characters of a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Size {
    /// The size of standard output, if it is a terminal.
    #[must_use]
    pub fn of_stdout() -> Self {
        let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout());
        size.map_or_else(|_| Self::default(), |size| Self { columns: size.ws_col, rows: size.ws_row })
    }

    /// The first fields of the configuration (virtio 1.2 §5.3.4).
    pub(super) fn to_config(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.columns.to_le_bytes(), self.rows.to_le_bytes());
        [a, b, c, d]
    }
}

/// The event loop subscriber that passes a new size on.
pub struct SizeWatcher {
    socket: UnixStream,
    config: Arc<DeviceConfig>,
}

impl SizeWatcher {
    /// Handles SIGWINCH for a console with this configuration.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if the host refuses a socket or the handler.
    pub fn new(config: Arc<DeviceConfig>) -> Result<Self> {
        let (socket, sender) = UnixStream::pair().context("creating a signal's socket")?;
        socket.set_nonblocking(true).context("creating a signal's socket")?;
        signal_hook::low_level::pipe::register(SIGWINCH, sender).context("registering a signal")?;
        Ok(Self { socket, config })
    }
}

impl MutEventSubscriber for SizeWatcher {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        // Several signals at once count as one.
        if matches!(self.socket.read(&mut [0; 64]), Ok(1..)) {
            self.config.update(0, &Size::of_stdout().to_config());
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.socket, EventSet::IN)) {
            tracing::error!("cannot watch the terminal's size: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_before_rows() {
        assert_eq!(Size { columns: 0x150, rows: 0x32 }.to_config(), [0x50, 0x01, 0x32, 0x00]);
    }

    #[test]
    fn a_changed_window_is_another_generation() {
        let config = Arc::new(DeviceConfig::new(vec![0; 4], 0..0));
        let watcher = Arc::new(std::sync::Mutex::new(SizeWatcher::new(Arc::clone(&config)).unwrap()));
        let mut manager = event_manager::EventManager::new().unwrap();
        event_manager::SubscriberOps::add_subscriber(&mut manager, watcher);
        let before = config.generation();
        signal_hook::low_level::raise(SIGWINCH).unwrap();
        manager.run().unwrap();
        assert_eq!(config.generation(), before.wrapping_add(1));
    }
}
