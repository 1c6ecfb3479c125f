//! The virtio console under Debian's driver, on a terminal of the host.

use std::time::Duration;

use guest::{Monitor, Result};
use lab::{Command, Job, Said};

use crate::stage::{self, Stage};

/// A boot, and what is done at the terminal.
const PATIENCE: Duration = Duration::from_secs(300);
/// The status of a run that Ctrl-A x has ended.
const INTERRUPTED: i32 = 130;

/// The guest says the terminal's size, another one after the terminal was resized, and the line that was typed. Ctrl-A x ends the run.
pub(crate) fn a_terminal_is_the_guests_and_has_its_size(stage: &Stage) -> Result<()> {
    let serial = stage.host.scratch().join("serial");
    let machine = stage.guest_with_console()?.job("console");
    let machine = machine.arguments(["--console", "--serial", &format!("file={}", serial.display())]);
    let words = machine.words(&Monitor::ours()?);
    let command = Command::new(&words[0]).args(words[1..].iter().cloned());
    let mut job = stage.host.lab()?.start(command.on_terminal(30, 100).timeout(PATIENCE))?;
    let mut shown = String::new();
    until(&mut job, &mut shown, "size=30 100")?;
    job.input().resize(40, 120)?;
    until(&mut job, &mut shown, "size=40 120")?;
    job.input().send(b"a line\r")?;
    until(&mut job, &mut shown, "typed=a line")?;
    job.input().send(b"\x01x")?;
    let status = loop {
        if let Said::Ended(status) = job.receive()? {
            break status;
        }
    };
    assert_eq!(status.code(), Some(INTERRUPTED), "{shown}");
    let said = std::fs::read_to_string(&serial).unwrap();
    assert!(said.contains("guest> init"), "the serial port goes to its file: {said}");
    stage::say(&format!("{}: the console's size, a line and Ctrl-A x", stage.place));
    Ok(())
}

/// Waits until the terminal shows this.
fn until(job: &mut Job, shown: &mut String, text: &str) -> Result<()> {
    while !shown.contains(text) {
        match job.receive()? {
            Said::Stdout(bytes) | Said::Stderr(bytes) => shown.push_str(&String::from_utf8_lossy(&bytes)),
            Said::Ended(status) => panic!("it ended with {status} before it has shown {text:?}: {shown}"),
        }
    }
    Ok(())
}
