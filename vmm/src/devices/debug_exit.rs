//! The debug-exit port, by which a bare-metal test ends the VMM with a status (QEMU's isa-debug-exit).
//!
//! A write of the value v, 1, 2 or 4 bytes wide, ends the run with the exit status `(v << 1) | 1`. The status is odd: it differs from 0
//! whatever the guest writes. The host keeps the low 8 bits of it. Reads return 0. The only state is the shared [`ExitEvent`].

use std::sync::Arc;

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

use crate::outcome::{ExitEvent, Outcome};

/// The port.
#[derive(Debug)]
pub struct DebugExit(pub Arc<ExitEvent>);

impl DevicePio for DebugExit {
    fn pio_read(&self, _base: PioAddress, _offset: PioAddressOffset, data: &mut [u8]) {
        data.fill(0);
    }

    fn pio_write(&self, _base: PioAddress, _offset: PioAddressOffset, data: &[u8]) {
        let value = match *data {
            [value] => value.into(),
            [low, high] => u16::from_le_bytes([low, high]).into(),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => return,
        };
        self.0.signal(Outcome::DebugExit(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(data: &[u8]) -> Option<u8> {
        let exit_event = ExitEvent::new().unwrap();
        DebugExit(Arc::clone(&exit_event)).pio_write(PioAddress(0xf4), 0, data);
        exit_event.take().map(|outcome| outcome.exit_status())
    }

    #[test]
    fn a_write_of_any_width_ends_the_run_with_twice_the_value_plus_one() {
        for (data, expected) in [
            (&[0][..], 1),
            (&[0x10], 33),
            (&[0x7f], 255),
            (&[0xff], 255),
            (&[0x10, 0], 33),
            (&[0x10, 0xff], 33),
            (&[0x31, 0, 0, 0], 99),
            (&[0, 0, 0, 0x80], 1),
        ] {
            assert_eq!(status(data), Some(expected), "{data:x?}");
        }
        assert_eq!([status(&[]), status(&[1, 2, 3])], [None, None]);
    }

    #[test]
    fn a_read_returns_0() {
        let mut data = [0xff; 4];
        DebugExit(ExitEvent::new().unwrap()).pio_read(PioAddress(0xf4), 0, &mut data);
        assert_eq!(data, [0; 4]);
    }
}
