//! The command line.
//!
//! Promise: the parser does not panic, and what it says has no control character of an argument.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::{CommandFactory, FromArgMatches};

use crate::cli::{CommandLine, printable_refusal};
use crate::printable::is_printable;

/// Arguments end with a zero byte each. One byte with the highest bit and no more stands for an option's name.
///
/// # Panics
/// A promise is broken.
pub fn cli(bytes: &[u8]) {
    const OPTIONS: [&str; 20] = [
        "--kernel",
        "--initrd",
        "--boot",
        "--cmdline",
        "--cpus",
        "--memory",
        "--vfio",
        "--host-vectors",
        "--device-vectors",
        "--rng",
        "--disk",
        "--net",
        "--device",
        "--serial",
        "--console",
        "--irqchip",
        "--unpack",
        "--debug-exit",
        "--report",
        "--log-level",
    ];
    let argument = |bytes: &[u8]| match bytes {
        [option] if *option >= 0x80 => OsString::from(OPTIONS[usize::from(option & 0x7f) % OPTIONS.len()]),
        _ => OsStr::from_bytes(bytes).to_owned(),
    };
    let arguments: Vec<_> =
        [OsString::from("vmm")].into_iter().chain(bytes.split(|byte| *byte == 0).map(argument)).collect();
    let mut command = CommandLine::command();
    let line = command
        .try_get_matches_from_mut(&arguments)
        .and_then(|mut matches| CommandLine::from_arg_matches_mut(&mut matches))
        .map_err(|error| error.format(&mut command));
    if let Err(error) = line {
        let text = printable_refusal(&error, arguments).unwrap_or_else(|| error.render().to_string());
        assert!(text.chars().all(|character| is_printable(character) || character == '\n'), "{text:?}");
    }
}
