//! QEMU's monitor: what the emulated CPUs are at, seen from outside, whatever state the lab host's kernel is in.
//!
//! The line is QEMU's standard output: no file, no inherited descriptor to leak. It is held for one question and its
//! answer.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{At, Error, Result};

/// How long an answer may take. QEMU gives it whatever its guest does, but it may have little of the machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is worth a line of the registers, and of the local APIC.
const REGISTERS: [&str; 2] = ["CPU#", "RIP="];
const APIC: [&str; 5] = ["LVTT", "Timer", "ISR", "IRR", "APR"];

/// The line to a QEMU.
#[derive(Debug)]
pub(super) struct Monitor {
    line: Mutex<BufReader<UnixStream>>,
}

impl Monitor {
    pub(super) fn new(line: UnixStream) -> Result<Self> {
        line.set_read_timeout(Some(PATIENCE)).at("set up", "QEMU's monitor")?;
        Ok(Self { line: Mutex::new(BufReader::new(line)) })
    }

    /// Each CPU's instruction pointer, flags, timer, and interrupts in service and requested.
    pub(super) fn cpus(&self) -> Result<String> {
        let mut said = Vec::new();
        let mut cpus = 0;
        for line in self.ask("info registers -a")?.lines() {
            cpus += usize::from(line.starts_with("CPU#"));
            said.extend(lines_with(line, &REGISTERS));
        }
        for cpu in 0..cpus {
            said.push(format!("APIC of CPU#{cpu}"));
            said.extend(
                self.ask(&format!("info lapic {cpu}"))?.lines().flat_map(|line| lines_with(line, &APIC)),
            );
        }
        Ok(said.join("\n"))
    }

    /// The answer to a question as people put it.
    fn ask(&self, question: &str) -> Result<String> {
        let failed = |source| Error::Line { what: "QEMU's monitor", source };
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        // The first one opens the line; QEMU refuses it later, which does no harm.
        let open = json!({ "execute": "qmp_capabilities" });
        let ask = json!({ "execute": "human-monitor-command", "arguments": { "command-line": question }, "id": question });
        line.get_mut().write_all(format!("{open}\n{ask}\n").as_bytes()).map_err(failed)?;
        loop {
            let mut text = String::new();
            if line.read_line(&mut text).map_err(failed)? == 0 {
                return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
            }
            // Events and other answers have no such name.
            let said: Value = serde_json::from_str(&text).unwrap_or_default();
            if said.get("id").and_then(Value::as_str) == Some(question) {
                return Ok(said.get("return").and_then(Value::as_str).unwrap_or(&text).to_owned());
            }
        }
    }
}

fn lines_with(line: &str, starts: &[&str]) -> Option<String> {
    starts.iter().any(|start| line.starts_with(start)).then(|| line.trim().to_owned())
}
