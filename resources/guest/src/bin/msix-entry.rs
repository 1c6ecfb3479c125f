//! Reads an entry of a PCI device's own MSI-X table on the host: `msix-entry ADDRESS ENTRY`. With `reset` after that, first
//! gives the entry the values that a reset of the device gives it, behind the back of every driver.
//!
//! Prints the entry's four DWORDs in hexadecimal: Message Address, Message Upper Address, Message Data, Vector Control. It maps
//! the BAR through sysfs, which a kernel with CONFIG_IO_STRICT_DEVMEM allows only with `iomem=relaxed`.

use std::error::Error;
use std::fs::{self, OpenOptions};

use rustix::mm::{MapFlags, ProtFlags};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

const ENTRY_BYTES: usize = 16;
/// Message and mask bit after a reset (PCIe r6 §7.7.2.8).
const AFTER_RESET: [u32; 4] = [0, 0, 0, 1];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (address, entry, resets) = match &arguments[..] {
        [address, entry] => (address, entry, false),
        [address, entry, reset] if reset == "reset" => (address, entry, true),
        _ => return Err("usage: msix-entry ADDRESS ENTRY [reset]".into()),
    };
    let device = format!("/sys/bus/pci/devices/{address}");
    let (bar, table) = table_of(&fs::read(format!("{device}/config"))?).ok_or("no MSI-X capability")?;
    let file = OpenOptions::new().read(true).write(true).open(format!("{device}/resource{bar}"))?;
    let bytes = usize::try_from(file.metadata()?.len())?;
    let protection = (ProtFlags::READ | ProtFlags::WRITE).bits() as i32;
    let shared = MapFlags::SHARED.bits() as i32;
    let mapping = MmapRegion::<()>::build(Some(FileOffset::new(file, 0)), bytes, protection, shared)?;
    let slice = mapping.as_volatile_slice();
    let at = table + entry.parse::<usize>()? * ENTRY_BYTES;
    let dwords = (at..at + ENTRY_BYTES).step_by(4);
    if resets {
        for (at, value) in dwords.clone().zip(AFTER_RESET) {
            slice.store(value, at, std::sync::atomic::Ordering::SeqCst)?;
        }
    }
    for at in dwords {
        print!("{:08x} ", slice.load::<u32>(at, std::sync::atomic::Ordering::SeqCst)?);
    }
    println!();
    Ok(())
}

/// The BAR that the MSI-X table is in, and where it begins there.
fn table_of(config: &[u8]) -> Option<(u32, usize)> {
    const MSIX: u8 = 0x11;
    let mut at = usize::from(*config.get(0x34)?);
    for _ in 0..48 {
        let capability = config.get(at..at + 8)?;
        if capability[0] == MSIX {
            let window = u32::from_le_bytes([capability[4], capability[5], capability[6], capability[7]]);
            return Some((window & 7, usize::try_from(window & !7).ok()?));
        }
        at = usize::from(capability[1] & !3);
    }
    None
}
