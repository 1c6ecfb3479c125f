//! This machine's own devices, for tests that run on it: those that `LINUX_TESTS_DEVICES` names, and no others.
//!
//! They are bound to vfio-pci by their owner, and told apart by what sysfs says of them.

use std::fs;
use std::path::Path;

use guest::{Error, Result};

use crate::passed::{Addresses, Passed, say};

/// Names the devices, with spaces or commas between.
const NAMES: &str = "LINUX_TESTS_DEVICES";

/// The addresses of the named devices.
pub(crate) fn devices() -> Result<Addresses> {
    let names = std::env::var(NAMES).unwrap_or_default();
    let names: Vec<_> = names.split([' ', ',']).filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return Err(refuse(NAMES, "names no device: set it to \"<bdf> <bdf>\""));
    }
    let mut addresses: Addresses = [const { None }; Passed::ALL.len()];
    for name in names {
        let dir = lab::vfio::device_dir(name)?;
        let address = dir.file_name().expect("a device's directory").to_string_lossy().into_owned();
        if lab::vfio::driver(name)?.as_deref() != Some("vfio-pci") {
            return Err(refuse(
                name,
                "it is not bound to vfio-pci; if it can be spared: target/release/lab bind",
            ));
        }
        match kind(&dir) {
            Some(kind) => {
                say(&format!("this machine: {address} is its {kind:?}"));
                addresses[kind as usize] = Some(address);
            }
            None => say(&format!("this machine: {address} is nothing that these tests have a use for")),
        }
    }
    assert_virtualises();
    Ok(addresses)
}

fn refuse(device: &str, why: &str) -> Error {
    lab::Error::Device(device.to_owned(), why.to_owned()).into()
}

/// The kind of device that a test uses it as.
fn kind(dir: &Path) -> Option<Passed> {
    let number = |attribute: &str| {
        let text = fs::read_to_string(dir.join(attribute)).ok()?;
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    };
    match (number("vendor")?, number("device")?, number("class")?) {
        (_, _, 0x01_08_02) => Some(Passed::Disk),
        (0x1af4, 0x1110, _) => match msix_table_size(dir)? {
            64 => Some(Passed::Doorbell),
            2048 => Some(Passed::Wide),
            _ => None,
        },
        (0x8086, 0x10c9, _) => Some(Passed::Card),
        _ => None,
    }
}

/// PCIe r6 §7.7.2.2, as the hardware has it.
fn msix_table_size(dir: &Path) -> Option<u16> {
    const CAPABILITIES_POINTER: usize = 0x34;
    const MSIX: u8 = 0x11;
    let config = fs::read(dir.join("config")).ok()?;
    let mut at = usize::from(*config.get(CAPABILITIES_POINTER)?);
    // A chain has no more capabilities than fit.
    for _ in 0..48 {
        match config.get(at..at + 4)? {
            [MSIX, _, low, high] => return Some((u16::from_le_bytes([*low, *high]) & 0x7ff) + 1),
            [_, 0, ..] => return None,
            [_, next, ..] => at = usize::from(*next),
            _ => return None,
        }
    }
    None
}

/// Linux guests need hardware virtualisation. The small guests of `kvm_msix` do not.
fn assert_virtualises() {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |flag: &str| cpu.split_whitespace().any(|word| word == flag);
    assert!(has("vmx") || has("svm"), "this machine has no VMX or SVM: Linux guests need a lab host here");
}
