//! A device's INTx: its eventfds at VFIO, and its line in the guest.
//!
//! VFIO has one interrupt index enabled at a time. INTx is enabled while nothing holds it: MSI and MSI-X hold it from before they are
//! enabled at the host until after they are disabled, a reset holds it, and a released device holds it for good.
//!
//! VFIO masks the interrupt when it signals the trigger eventfd, and unmasks it when the guest has ended the interrupt: the line
//! signals the unmask eventfd, which VFIO reads itself. No vCPU makes a host call for an interrupt. VFIO follows Interrupt Disable
//! of the command register.
//!
//! Invariant: the eventfds are empty while INTx is disabled, and the line is deasserted. A device that still asserts its
//! interrupt signals it when INTx is enabled again, so none is lost. Locks: one for each device, below the vm-msi crate's and above
//! the IOAPIC's.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_PCI_INTX_IRQ_INDEX,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::host_interrupts::HostInterrupts;
use super::ioctl;
use super::sysfs::HostAddress;
use crate::error::{Context, Result};
use crate::interrupts::level::{LevelLine, Reader};
use crate::pci::InterruptPin;

/// Offset of the Interrupt Pin register (PCIe r6 §7.5.1.1.13).
const INTERRUPT_PIN: usize = 0x3d;

/// The pin of a device whose INTx VFIO can deliver. `registers` is its configuration space.
#[must_use]
pub fn pin(device: &File, registers: &[u8]) -> Option<InterruptPin> {
    let pin = InterruptPin::from_register(*registers.get(INTERRUPT_PIN)?)?;
    let interrupts = ioctl::irq_count(device, VFIO_PCI_INTX_IRQ_INDEX).unwrap_or(0);
    (interrupts > 0).then_some(pin)
}

/// The calls for INTx on a device's descriptor.
pub trait IntxCalls: fmt::Debug + Send + Sync {
    /// Enables INTx. The host signals `trigger`, and unmasks the interrupt for each signal of `unmask`.
    ///
    /// # Errors
    /// The host's. INTx is disabled.
    fn enable(&self, trigger: &EventFd, unmask: &EventFd) -> io::Result<()>;

    /// Disables INTx. The host signals nothing afterwards.
    ///
    /// # Errors
    /// The host's. INTx is enabled.
    fn disable(&self) -> io::Result<()>;
}

impl IntxCalls for Arc<File> {
    fn enable(&self, trigger: &EventFd, unmask: &EventFd) -> io::Result<()> {
        ioctl::set_intx_eventfd(self, VFIO_IRQ_SET_ACTION_TRIGGER, trigger.as_raw_fd())?;
        // The host looks for signals that are there already: an interrupt that has ended in between is unmasked, too.
        let unmasked = ioctl::set_intx_eventfd(self, VFIO_IRQ_SET_ACTION_UNMASK, unmask.as_raw_fd());
        unmasked.inspect_err(|_| {
            if let Err(error) = ioctl::disable_intx(self) {
                tracing::warn!("INTx cannot be disabled after a failure: {error}");
            }
        })
    }

    fn disable(&self) -> io::Result<()> {
        ioctl::disable_intx(self)
    }
}

/// How far INTx is enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing is connected.
    Disabled,
    /// The line has the eventfds. VFIO has none.
    Connected,
    /// VFIO signals the trigger eventfd.
    Enabled,
}

#[derive(Debug)]
struct State {
    holds: u32,
    progress: Progress,
    /// Host calls that were refused.
    failures: u64,
}

/// The INTx of one device.
#[derive(Debug)]
pub struct Intx {
    address: HostAddress,
    pin: InterruptPin,
    gsi: u32,
    calls: Box<dyn IntxCalls>,
    line: Arc<dyn LevelLine>,
    trigger: EventFd,
    unmask: Arc<EventFd>,
    state: Mutex<State>,
}

impl Intx {
    /// The INTx of the device at `address`, with its pin on `line`. It is held: [`give_back`](Self::give_back) enables it.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host): the process has no descriptor left.
    pub fn new(
        address: HostAddress,
        pin: InterruptPin,
        (gsi, line): (u32, Arc<dyn LevelLine>),
        calls: Box<dyn IntxCalls>,
    ) -> Result<Self> {
        let eventfd = || EventFd::new(EFD_NONBLOCK).context(format!("device {address}: its {pin}"));
        let state = Mutex::new(State { holds: 1, progress: Progress::Disabled, failures: 0 });
        Ok(Self { address, pin, gsi, calls, line, trigger: eventfd()?, unmask: Arc::new(eventfd()?), state })
    }

    /// The eventfd that the owner of the event loop watches. `None` if KVM reads it.
    #[must_use]
    pub fn watched(&self) -> Option<&EventFd> {
        (self.line.reader() == Reader::Owner).then_some(&self.trigger)
    }

    /// Holds INTx for another user, and disables it.
    ///
    /// Interrupts meanwhile: the device keeps its interrupt asserted, or signals it by a message.
    ///
    /// # Errors
    /// The host's: INTx may be enabled still. It is held all the same.
    pub fn take_over(&self) -> io::Result<()> {
        let mut state = self.state();
        state.holds = state.holds.saturating_add(1);
        let disabled = self.disable(&mut state);
        disabled.inspect_err(|_| state.failures = state.failures.saturating_add(1))
    }

    /// Ends one hold. The last one enables INTx.
    pub fn give_back(&self) {
        let mut state = self.state();
        state.holds = state.holds.saturating_sub(1);
        self.enable_if_free(&mut state);
    }

    /// Tries again what the host has refused, and delivers what the event loop could not watch.
    pub fn retry(&self) {
        self.enable_if_free(&mut self.state());
        if let Err(error) = self.line.retry() {
            tracing::warn!("device {}: its {} waits: {error}", self.address, self.pin);
        }
        self.deliver();
    }

    /// Asserts the line if the host has signalled the interrupt. Does nothing where KVM reads the signals.
    pub fn deliver(&self) {
        let state = self.state();
        let is_signalled = || state.progress == Progress::Enabled && self.trigger.read().is_ok();
        if self.line.reader() == Reader::Owner
            && is_signalled()
            && let Err(error) = self.line.assert()
        {
            tracing::warn!("device {}: its {} waits: {error}", self.address, self.pin);
        }
    }

    /// The device's part of the report. `counted` holds the host's interrupt counts.
    #[must_use]
    pub fn report(&self, counted: &HostInterrupts) -> Value {
        let state = self.state();
        json!({
            "pin": self.pin.to_string(),
            "gsi": self.gsi,
            "enabled": state.progress == Progress::Enabled,
            "host_interrupts": counted.count(0),
            "host_failures": state.failures,
        })
    }

    fn enable_if_free(&self, state: &mut State) {
        if state.holds == 0
            && let Err(error) = self.enable(state)
        {
            state.failures = state.failures.saturating_add(1);
            tracing::warn!("device {}: its {} cannot be enabled yet: {error}", self.address, self.pin);
        }
    }

    fn enable(&self, state: &mut State) -> io::Result<()> {
        if state.progress == Progress::Disabled {
            self.line.connect(&self.trigger, &self.unmask)?;
            state.progress = Progress::Connected;
        }
        if state.progress == Progress::Connected {
            self.calls.enable(&self.trigger, &self.unmask)?;
            state.progress = Progress::Enabled;
        }
        Ok(())
    }

    fn disable(&self, state: &mut State) -> io::Result<()> {
        if state.progress == Progress::Enabled {
            self.calls.disable()?;
            state.progress = Progress::Connected;
        }
        if state.progress == Progress::Connected {
            self.line.disconnect(&self.trigger)?;
            state.progress = Progress::Disabled;
        }
        // Signals that nothing will read any more. An empty eventfd is no error.
        let _ = (self.trigger.read(), self.unmask.read());
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The host and the line. They record calls, and refuse those that are named.
    #[derive(Clone, Debug, Default)]
    pub(in crate::vfio) struct Recorder {
        calls: Arc<Mutex<Vec<&'static str>>>,
        refused: Arc<Mutex<BTreeSet<&'static str>>>,
        is_read_by_kvm: bool,
    }

    impl Recorder {
        fn call(&self, name: &'static str) -> io::Result<()> {
            self.calls.lock().unwrap().push(name);
            if self.refused.lock().unwrap().contains(name) {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            Ok(())
        }

        pub(in crate::vfio) fn take(&self) -> Vec<&'static str> {
            std::mem::take(&mut self.calls.lock().unwrap())
        }

        fn refuse(&self, names: &[&'static str]) {
            *self.refused.lock().unwrap() = names.iter().copied().collect();
        }
    }

    impl IntxCalls for Recorder {
        fn enable(&self, _: &EventFd, _: &EventFd) -> io::Result<()> {
            self.call("enable")
        }
        fn disable(&self) -> io::Result<()> {
            self.call("disable")
        }
    }

    impl LevelLine for Recorder {
        fn connect(&self, _: &EventFd, _: &Arc<EventFd>) -> io::Result<()> {
            self.call("connect")
        }
        fn disconnect(&self, _: &EventFd) -> io::Result<()> {
            self.call("disconnect")
        }
        fn reader(&self) -> Reader {
            if self.is_read_by_kvm { Reader::Kvm } else { Reader::Owner }
        }
        fn assert(&self) -> io::Result<()> {
            self.call("assert")
        }
        fn retry(&self) -> io::Result<()> {
            self.call("retry line")
        }
    }

    /// An INTx of INTA, held.
    pub(in crate::vfio) fn intx_of(recorder: &Recorder) -> Intx {
        let [pin, ..] = InterruptPin::ALL;
        let address = HostAddress::parse("0000:01:00.0").unwrap();
        let line = Arc::new(recorder.clone());
        Intx::new(address, pin, (17, line), Box::new(recorder.clone())).unwrap()
    }

    fn enabled() -> (Intx, Recorder) {
        let recorder = Recorder::default();
        let intx = intx_of(&recorder);
        intx.give_back();
        assert_eq!(recorder.take(), ["connect", "enable"]);
        (intx, recorder)
    }

    fn is_enabled(intx: &Intx) -> bool {
        intx.report(&HostInterrupts::default())["enabled"] == true
    }

    #[test]
    fn it_is_enabled_while_nothing_holds_it() {
        let (intx, recorder) = enabled();
        intx.take_over().unwrap();
        assert_eq!(recorder.take(), ["disable", "disconnect"]);
        intx.take_over().unwrap();
        intx.give_back();
        assert_eq!(recorder.take(), [""; 0], "another user holds it");
        intx.give_back();
        assert_eq!((recorder.take(), is_enabled(&intx)), (vec!["connect", "enable"], true));
        intx.give_back();
        assert_eq!(recorder.take(), [""; 0]);
    }

    #[test]
    fn signals_from_before_it_was_disabled_do_not_return() {
        let (intx, recorder) = enabled();
        intx.trigger.write(1).unwrap();
        intx.unmask.write(1).unwrap();
        intx.take_over().unwrap();
        assert!(intx.trigger.read().is_err() && intx.unmask.read().is_err());
        intx.deliver();
        intx.give_back();
        intx.deliver();
        assert!(!recorder.take().contains(&"assert"));
        intx.trigger.write(1).unwrap();
        intx.deliver();
        intx.deliver();
        assert_eq!(recorder.take(), ["assert"]);
    }

    #[test]
    fn a_signal_while_it_is_held_asserts_nothing() {
        let (intx, recorder) = enabled();
        intx.take_over().unwrap();
        recorder.take();
        intx.trigger.write(1).unwrap();
        intx.deliver();
        assert_eq!(recorder.take(), [""; 0]);
    }

    #[test]
    fn signals_that_kvm_reads_are_left_to_kvm() {
        let recorder = Recorder { is_read_by_kvm: true, ..Recorder::default() };
        let intx = intx_of(&recorder);
        intx.give_back();
        recorder.take();
        intx.trigger.write(1).unwrap();
        intx.deliver();
        assert_eq!((recorder.take(), intx.trigger.read().unwrap()), (vec![], 1));
        assert!(intx.watched().is_none());
    }

    #[test]
    fn what_the_host_refuses_to_enable_is_tried_again() {
        let recorder = Recorder::default();
        let intx = intx_of(&recorder);
        for (refused, calls) in [("connect", vec!["connect"]), ("enable", vec!["connect", "enable"])] {
            recorder.refuse(&[refused]);
            intx.give_back();
            assert_eq!((recorder.take(), is_enabled(&intx)), (calls, false));
        }
        recorder.refuse(&[]);
        intx.retry();
        assert_eq!((recorder.take(), is_enabled(&intx)), (vec!["enable", "retry line"], true));
        assert_eq!(intx.report(&HostInterrupts::default())["host_failures"], 2);
        intx.retry();
        assert_eq!(recorder.take(), ["retry line"]);
    }

    #[test]
    fn an_intx_that_the_host_does_not_disable_is_enabled_for_the_guest_again() {
        for refused in ["disable", "disconnect"] {
            let (intx, recorder) = enabled();
            recorder.refuse(&[refused]);
            assert!(intx.take_over().is_err());
            intx.retry();
            recorder.refuse(&[]);
            intx.give_back();
            assert!(is_enabled(&intx), "{refused}");
            assert!(intx.take_over().is_ok());
            assert!(!is_enabled(&intx));
        }
    }

    #[test]
    fn a_device_without_vfios_intx_has_no_pin() {
        let device = File::open("/dev/null").unwrap();
        let mut registers = [0; 64];
        assert_eq!(pin(&device, &registers), None);
        registers[INTERRUPT_PIN] = 1;
        assert_eq!(pin(&device, &registers), None, "the host has no INTx for it");
        assert_eq!(pin(&device, &[]), None);
    }
}
