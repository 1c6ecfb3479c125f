//! Runs the machine's own programs, and says what they said when they fail.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// Runs a program to its end and gives its standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output().map_err(|source| not_started(command, source))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = [output.stderr, output.stdout].concat();
    Err(failed(command, &output.status.to_string(), &String::from_utf8_lossy(&said)))
}

/// Runs a program to its end and gives its standard output as text.
pub(crate) fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?).into_owned())
}

/// Runs a program and shows those of its lines that begin with one of these words, as they come.
pub(crate) fn shown(command: &mut Command, words: &[&str]) -> Result<()> {
    let (reader, writer) = std::io::pipe().map_err(|source| not_started(command, source))?;
    let other = writer.try_clone().map_err(|source| not_started(command, source))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(other)
        .spawn()
        .map_err(|source| not_started(command, source))?;
    // The command keeps the writing ends; without this the reading end would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut said = String::new();
    for line in BufReader::new(reader).lines().map_while(Result::ok) {
        if words.iter().any(|word| line.starts_with(word)) {
            eprintln!("  {line}");
        }
        said.push_str(&line);
        said.push('\n');
    }
    let status = child.wait().map_err(|source| not_started(command, source))?;
    if status.success() { Ok(()) } else { Err(failed(command, &status.to_string(), &said)) }
}

fn not_started(command: &Command, source: std::io::Error) -> Error {
    Error::Start { program: command.get_program().to_string_lossy().into_owned(), source }
}

fn failed(command: &Command, status: &str, said: &str) -> Error {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let command = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let lines: Vec<_> = said.lines().collect();
    let output = lines[lines.len().saturating_sub(20)..].join("\n");
    Error::Program { command, status: status.to_owned(), output }
}
