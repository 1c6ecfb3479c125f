//! COM1 on the bus: the registers, their interrupt, and the flush of buffered output.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};
use vm_superio::serial::{Serial, SerialEvents};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::flush_timer::FlushTimer;
use super::output::{self, Output};
use crate::cli::SerialTarget;
use crate::error::{Context, Result};
use crate::interrupts::Line;
use crate::outcome::ExitEvent;

/// The registers with their interrupt and output.
type Registers = Serial<Line, InputRead, Output>;

/// COM1.
pub struct Port {
    registers: Mutex<Registers>,
    flush_timer: FlushTimer,
    input_read: EventFd,
    exit_event: Arc<ExitEvent>,
}

/// The interval at which a guest blocked by a slow reader checks for the end of the run.
const WRITE_TIMEOUT: Duration = Duration::from_millis(100);
/// The maximum wait for a reader of the last output.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

impl Port {
    /// A port that raises `interrupt` and writes to `target`.
    ///
    /// # Errors
    /// [`Error::Input`](crate::error::Error::Input) if the file cannot be written,
    /// [`Error::Host`](crate::error::Error::Host) if the host refuses a descriptor.
    pub fn new(target: &SerialTarget, interrupt: Line, exit_event: Arc<ExitEvent>) -> Result<Arc<Self>> {
        let output = Output::to(target)?;
        let input_read = EventFd::new(EFD_NONBLOCK).context("creating an eventfd")?;
        let events = InputRead(input_read.try_clone().context("duplicating an eventfd")?);
        let registers = Mutex::new(Serial::with_events(interrupt, events, output));
        Ok(Arc::new(Self { registers, flush_timer: FlushTimer::new()?, input_read, exit_event }))
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of input bytes that the port accepts now.
    #[must_use]
    pub fn input_capacity(&self) -> usize {
        self.registers().fifo_capacity()
    }

    /// Queues input for the guest. Bytes beyond [`Port::input_capacity`] are lost, as on a line without flow control.
    pub fn receive(&self, input: &[u8]) {
        if let Err(error) = self.registers().enqueue_raw_bytes(input) {
            tracing::warn!("serial input was lost: {error}");
        }
    }

    /// Writes as much buffered output as its reader accepts, and restarts the timer for the rest.
    fn drain(&self) {
        let mut registers = self.registers();
        if let Err(error) = registers.writer_mut().drain() {
            tracing::debug!("serial output: {error}");
        }
        if registers.writer().buffered() > 0 {
            self.flush_timer.start();
        }
    }

    /// Writes the last output. Gives up if the reader accepts nothing for one second.
    pub fn close(&self) {
        loop {
            self.drain();
            let buffered = self.registers().writer().buffered();
            if buffered == 0 {
                return;
            }
            if !matches!(output::wait_writable(CLOSE_TIMEOUT), Ok(true)) {
                return tracing::warn!(
                    "the last {buffered} bytes of serial output are lost: nobody reads them"
                );
            }
        }
    }

    fn write(&self, offset: u8, value: u8) {
        let mut registers = self.registers();
        let waited = registers.writer().buffered();
        if let Err(error) = registers.write(offset, value) {
            // A broken output must not stop the guest's console.
            tracing::debug!("serial output: {error}");
        }
        if waited == 0 && registers.writer().buffered() > 0 {
            self.flush_timer.start();
        }
        // The vCPU waits for a slow reader, without the lock: the event loop must not block.
        while registers.writer().is_full() && !self.exit_event.is_signalled() {
            drop(registers);
            if let Err(error) = output::wait_writable(WRITE_TIMEOUT) {
                tracing::debug!("serial output: {error}");
            }
            self.drain();
            registers = self.registers();
        }
    }

    /// Readable after the guest has read all input.
    #[must_use]
    pub fn input_read(&self) -> &EventFd {
        &self.input_read
    }
}

impl DevicePio for Port {
    fn pio_read(&self, _base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        data.fill(0xff);
        // Registers are bytes. A wider access reads the first one.
        if let (Ok(offset), [value, ..]) = (u8::try_from(offset), data) {
            *value = self.registers().read(offset);
        }
    }

    fn pio_write(&self, _base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        if let (Ok(offset), [value, ..]) = (u8::try_from(offset), data) {
            self.write(offset, *value);
        }
    }
}

/// Signals that the guest has read all input.
struct InputRead(EventFd);

impl SerialEvents for InputRead {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        // The write fails only with a full counter, which is readable, too.
        if let Err(error) = self.0.write(1) {
            tracing::trace!("serial input: {error}");
        }
    }
}

/// The event loop subscriber that flushes buffered output.
pub struct Flusher(pub Arc<Port>);

impl MutEventSubscriber for Flusher {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.0.flush_timer.acknowledge();
        self.0.drain();
    }

    fn init(&mut self, ops: &mut EventOps) {
        let timer = self.0.flush_timer.descriptor();
        if let Err(error) = ops.add(Events::new_raw(timer, EventSet::IN)) {
            tracing::error!("cannot watch the flush timer, serial output without a newline is late: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u16 = 0;
    const INTERRUPT_ENABLE: u16 = 1;
    const LINE_STATUS: u16 = 5;
    const BASE: PioAddress = PioAddress(0x3f8);

    #[test]
    fn output_reaches_the_file_and_input_the_guest() {
        let path = std::env::temp_dir().join(format!("vmm-serial-{}", std::process::id()));
        let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
        let port = Port::new(
            &SerialTarget::File(path.clone()),
            Line::Irqfd(interrupt.try_clone().unwrap()),
            ExitEvent::new().unwrap(),
        )
        .unwrap();
        for byte in b"hello\n" {
            port.pio_write(BASE, DATA, &[*byte]);
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"hello\n");
        port.pio_write(BASE, DATA, b"$");
        port.drain();
        assert_eq!(std::fs::read(&path).unwrap(), b"hello\n$");
        std::fs::remove_file(&path).unwrap();

        port.pio_write(BASE, INTERRUPT_ENABLE, &[1]);
        assert!(interrupt.read().is_err());
        port.receive(b"x");
        assert_eq!(interrupt.read().unwrap(), 1);
        let mut data = [0; 2];
        port.pio_read(BASE, LINE_STATUS, &mut data);
        assert_eq!((data[0] & 1, data[1]), (1, 0xff));
        port.pio_read(BASE, DATA, &mut data[..1]);
        assert_eq!(data[0], b'x');
        assert!(port.input_read().read().is_ok());
    }

    #[test]
    fn any_access_is_answered() {
        let port = Port::new(
            &SerialTarget::Off,
            Line::Irqfd(EventFd::new(EFD_NONBLOCK).unwrap()),
            ExitEvent::new().unwrap(),
        )
        .unwrap();
        for offset in 0..16 {
            for width in 0..=8 {
                port.pio_write(BASE, offset, &vec![0xff; width]);
                port.pio_read(BASE, offset, &mut vec![0; width]);
            }
        }
        assert!(port.input_capacity() <= 64);
    }
}
