//! pvpanic: the port by which a guest's kernel says that it has panicked (QEMU's docs/specs/pvpanic).
//!
//! The DSDT has the device QEMU0001, for which Linux has the driver `pvpanic-mmio`. A read returns the supported events. A write reports
//! events: a panic ends the run, and a panic with a crash kernel is logged, because the crash kernel runs next. The only state is the
//! shared [`ExitEvent`].

use std::sync::Arc;

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

use crate::outcome::{ExitEvent, Outcome};

/// The kernel has panicked.
const PANICKED: u8 = 1 << 0;
/// The kernel has panicked and starts its crash kernel.
const CRASH_LOADED: u8 = 1 << 1;

/// The port.
#[derive(Debug)]
pub struct Pvpanic(pub Arc<ExitEvent>);

impl DevicePio for Pvpanic {
    fn pio_read(&self, _base: PioAddress, _offset: PioAddressOffset, data: &mut [u8]) {
        data.fill(0);
        if let Some(events) = data.first_mut() {
            *events = PANICKED | CRASH_LOADED;
        }
    }

    fn pio_write(&self, _base: PioAddress, _offset: PioAddressOffset, data: &[u8]) {
        let [events] = *data else { return };
        if events & PANICKED != 0 {
            self.0.signal(Outcome::Panicked);
        } else if events & CRASH_LOADED != 0 {
            tracing::warn!("the guest's kernel panicked, and starts its crash kernel");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;

    fn outcome(data: &[u8]) -> Option<Outcome> {
        let exit_event = ExitEvent::new().unwrap();
        Pvpanic(Arc::clone(&exit_event)).pio_write(PioAddress(layout::PVPANIC_PORT), 0, data);
        exit_event.take()
    }

    #[test]
    fn only_a_panic_without_a_crash_kernel_ends_the_run() {
        for events in 0..=u8::MAX {
            let panicked = matches!(outcome(&[events]), Some(Outcome::Panicked));
            assert_eq!(panicked, events & 1 != 0, "{events:#x}");
        }
        assert!(outcome(&[]).is_none() && outcome(&[1, 0]).is_none());
    }

    #[test]
    fn a_read_returns_the_supported_events() {
        let pvpanic = Pvpanic(ExitEvent::new().unwrap());
        for width in 0..=4 {
            let mut data = vec![0xff; width];
            pvpanic.pio_read(PioAddress(layout::PVPANIC_PORT), 0, &mut data);
            assert_eq!(data, [3, 0, 0, 0][..width]);
        }
    }
}
