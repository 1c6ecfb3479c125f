//! The escape of a terminal that the guest uses: `Ctrl-A h` lists the keys, `Ctrl-A x` ends the VMM, and `Ctrl-A Ctrl-A`
//! sends one Ctrl-A.

use std::io::{self, Write};

use crate::outcome::{ExitEvent, Outcome};

const CTRL_A: u8 = 1;

/// What `Ctrl-A h` prints.
const HELP: &str = "\
vmm: Ctrl-A h       this list
     Ctrl-A x       end the VMM, without a shutdown of the guest
     Ctrl-A Ctrl-A  send Ctrl-A to the guest
     SIGUSR1 writes the report, if --report is given.";

/// The signal whose exit status `Ctrl-A x` has.
const INTERRUPTED: i32 = signal_hook::consts::SIGINT;

/// What the user wants of the VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// The list of keys.
    Help,
    /// The end of the VMM.
    End,
}

impl Command {
    /// Does it.
    pub(crate) fn run(self, exit_event: &ExitEvent) {
        match self {
            Self::Help => {
                // There is nobody to tell if standard error is closed.
                let _ = writeln!(io::stderr(), "{HELP}");
            }
            Self::End => exit_event.signal(Outcome::Stopped(INTERRUPTED)),
        }
    }
}

/// The escape's state: whether the last byte was Ctrl-A.
#[derive(Debug, Default)]
pub(crate) struct Escape {
    pending: bool,
}

impl Escape {
    /// The bytes of `typed` for the guest, and the commands among them. Nothing after [`Command::End`] counts.
    pub(crate) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, Vec<Command>) {
        let mut bytes = Vec::with_capacity(typed.len());
        let mut commands = Vec::new();
        for byte in typed {
            match (std::mem::take(&mut self.pending), *byte) {
                (true, b'x' | b'X') => {
                    commands.push(Command::End);
                    break;
                }
                (true, b'h' | b'H' | b'?') => commands.push(Command::Help),
                (true, CTRL_A) => bytes.push(CTRL_A),
                (true, other) => bytes.extend([CTRL_A, other]),
                (false, CTRL_A) => self.pending = true,
                (false, other) => bytes.push(other),
            }
        }
        (bytes, commands)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_is_ctrl_a() {
        let mut escape = Escape::default();
        assert_eq!(escape.filter(b"ab\x01"), (b"ab".to_vec(), vec![]));
        assert_eq!(escape.filter(b"\x01c"), (b"\x01c".to_vec(), vec![]));
        assert_eq!(escape.filter(b"\x01q"), (b"\x01q".to_vec(), vec![]));
        assert_eq!(escape.filter(b"h?\x01h\x01"), (b"h?".to_vec(), vec![Command::Help]));
        assert_eq!(escape.filter(b"?!"), (b"!".to_vec(), vec![Command::Help]));
        assert_eq!(escape.filter(b"z\x01h\x01xrest"), (b"z".to_vec(), vec![Command::Help, Command::End]));
    }
}
