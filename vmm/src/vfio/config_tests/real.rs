//! Configuration spaces of real devices, one a file of 256 or 4096 bytes.
//!
//! They are not part of the repository. `CONFIG_SPACES` names a directory that has some; `lspci -xxxx` of any machine is
//! a source. Without one, the tests say so and pass.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::invariants::{WORKING, WORKING_EXTENDED};
use super::*;

const VARIABLE: &str = "CONFIG_SPACES";
const DEFAULT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/config-spaces");

/// Name and registers of each device.
fn devices() -> Vec<(String, Vec<u8>)> {
    let directory = match env::var_os(VARIABLE) {
        Some(directory) => PathBuf::from(directory),
        None if Path::new(DEFAULT).is_dir() => PathBuf::from(DEFAULT),
        None => {
            eprintln!("skipped: there are no configuration spaces of real devices, set {VARIABLE}");
            return Vec::new();
        }
    };
    let files = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let devices: Vec<_> = files
        .iter()
        .map(|path| (path.file_name().unwrap().display().to_string(), fs::read(path).unwrap()))
        .filter(|(_, registers)| [256, 4096].contains(&registers.len()))
        .collect();
    assert!(!devices.is_empty(), "{} has no configuration spaces", directory.display());
    devices
}

#[test]
fn a_real_device_keeps_its_registers_and_a_list_that_ends() {
    for (name, host) in devices() {
        println!("{name}");
        invariants::assert_all(&host);
    }
}

#[test]
fn lspci_names_every_capability_that_works_in_a_guest() {
    let is_installed = Command::new("lspci").arg("--version").output().is_ok();
    if !is_installed {
        eprintln!("skipped: there is no lspci, install pciutils");
        return;
    }
    let dump = env::temp_dir().join(format!("vmm-config-space-{}", std::process::id()));
    for (name, host) in devices() {
        let passed = Passed::new(host);
        fs::write(&dump, hexadecimal(&passed)).unwrap();
        let output = Command::new("lspci").arg("-F").arg(&dump).arg("-vvv").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {output:?}");
        for (at, id) in passed.list() {
            let (_, capability) = WORKING.iter().find(|(working, _)| *working == id).unwrap();
            assert!(text.contains(&format!("Capabilities: [{at:02x}] {capability}")), "{name}: {text}");
        }
        // lspci reads extended space only of a function with PCI Express or PCI-X.
        let extended = passed.extended_list();
        let extended = extended.iter().filter(|_| passed.list().iter().any(|(_, id)| *id == id::PCI_EXPRESS));
        for (at, id) in extended {
            let (_, capability) = WORKING_EXTENDED.iter().find(|(working, _)| working == id).unwrap();
            let version = passed.read(*at) >> 16 & 0xf;
            let line = format!("Capabilities: [{at:03x} v{version:x}] {capability}");
            assert!(text.contains(&line), "{name}: {text}");
        }
        for broken in ["chain looped", "chain broken", "<unreadable>"] {
            assert!(!text.contains(broken), "{name}: {text}");
        }
    }
    let _ = fs::remove_file(&dump);
}

/// The guest's view as `lspci -xxxx` prints it.
fn hexadecimal(passed: &Passed) -> String {
    let view = passed.view();
    let lines = view[..passed.found.len()].chunks(16).enumerate().map(|(line, bytes)| {
        let bytes: String = bytes.iter().map(|byte| format!(" {byte:02x}")).collect();
        format!("{:02x}:{bytes}\n", line * 16)
    });
    format!("00:01.0 Device\n{}\n", lines.collect::<String>())
}
