//! The escape of a terminal that the guest uses: `Ctrl-A x` ends the VMM, `Ctrl-A Ctrl-A` sends one Ctrl-A.

use crate::outcome::Outcome;

const CTRL_A: u8 = 1;

/// How a run ends by `Ctrl-A x`: as by Ctrl-C.
pub(crate) const INTERRUPTED: Outcome = Outcome::Stopped(signal_hook::consts::SIGINT);

/// The escape's state: whether the last byte was Ctrl-A.
#[derive(Debug, Default)]
pub(crate) struct Escape {
    pending: bool,
}

impl Escape {
    /// The bytes of `typed` for the guest, and whether the user ends the VMM.
    pub(crate) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut bytes = Vec::with_capacity(typed.len());
        for byte in typed {
            match (std::mem::take(&mut self.pending), *byte) {
                (true, b'x' | b'X') => return (bytes, true),
                (true, CTRL_A) => bytes.push(CTRL_A),
                (true, other) => bytes.extend([CTRL_A, other]),
                (false, CTRL_A) => self.pending = true,
                (false, other) => bytes.push(other),
            }
        }
        (bytes, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_is_ctrl_a() {
        let mut escape = Escape::default();
        assert_eq!(escape.filter(b"ab\x01"), (b"ab".to_vec(), false));
        assert_eq!(escape.filter(b"\x01c"), (b"\x01c".to_vec(), false));
        assert_eq!(escape.filter(b"\x01q"), (b"\x01q".to_vec(), false));
        assert_eq!(escape.filter(b"z\x01xrest"), (b"z".to_vec(), true));
    }
}
