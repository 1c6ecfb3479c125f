//! Accesses a BAR while its decoding changes: `bar-accesses DEVICE BAR OFFSET`. DEVICE is its directory in sysfs, without a
//! driver. The register at OFFSET of the BAR must be constant and not all ones.
//!
//! Prints the register's values in hexadecimal: at first; while one thread toggles Memory Space Enable and another reads
//! (how often it saw the value, all ones, and others); while the BAR holds 0xfffffff0; at the old address after a move; and
//! in D3hot. Each is followed by the value after the way back.
//!
//! When a BAR's memory slot returns while KVM emulates a read of it, KVM copies the register byte by byte (Linux 6.12,
//! `rep_movs_alternative`). Some device models answer a byte read with the register's low byte, so `bytes`, the value read
//! in that way, counts as the value.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::mm::{MapFlags, ProtFlags};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

const COMMAND: u64 = 0x04;
const MEMORY_SPACE: u32 = 1 << 1;
const BAR0: u64 = 0x10;
const TYPE_64BIT: u32 = 0b100;
const CAPABILITIES: u64 = 0x34;
const POWER_MANAGEMENT: u32 = 1;
const PMCSR: u64 = 4;
const POWER_STATE: u32 = 0b11;
const TOGGLES: u32 = 40;
const ONES: u32 = u32::MAX;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Device {
    config: File,
    bar: u64,
    mapping: MmapRegion,
    offset: usize,
}

impl Device {
    fn open(directory: &str, bar: u64, offset: usize) -> Result<Self> {
        let open = |name: &str| OpenOptions::new().read(true).write(true).open(format!("{directory}/{name}"));
        let file = open(&format!("resource{bar}"))?;
        let bytes = usize::try_from(fs::metadata(format!("{directory}/resource{bar}"))?.len())?;
        let protection = (ProtFlags::READ | ProtFlags::WRITE).bits() as i32;
        let shared = MapFlags::SHARED.bits() as i32;
        let mapping = MmapRegion::build(Some(FileOffset::new(file, 0)), bytes, protection, shared)?;
        Ok(Self { config: open("config")?, bar: BAR0 + 4 * bar, mapping, offset })
    }

    fn register(&self) -> Result<u32> {
        Ok(self.mapping.as_volatile_slice().load(self.offset, Ordering::SeqCst)?)
    }

    /// The register, read byte by byte.
    fn register_by_bytes(&self) -> Result<u32> {
        let slice = self.mapping.as_volatile_slice();
        let mut bytes = [0; 4];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = slice.load::<u8>(self.offset + at, Ordering::SeqCst)?;
        }
        Ok(u32::from_le_bytes(bytes))
    }

    fn config(&self, at: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.config.read_exact_at(&mut bytes, at)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn set(&self, at: u64, value: u32) -> Result<()> {
        Ok(self.config.write_all_at(&value.to_le_bytes(), at)?)
    }

    fn set_command(&self, value: u32) -> Result<()> {
        Ok(self.config.write_all_at(&value.to_le_bytes()[..2], COMMAND)?)
    }

    /// Offset of the power management capability.
    fn power_management(&self) -> Result<u64> {
        let mut at = self.config(CAPABILITIES)? & 0xfc;
        for _ in 0..48 {
            let header = self.config(at.into())?;
            if header & 0xff == POWER_MANAGEMENT {
                return Ok(at.into());
            }
            at = header >> 8 & 0xfc;
        }
        Err("no power management capability".into())
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, bar, offset] = &arguments[..] else {
        return Err("usage: bar-accesses DEVICE BAR OFFSET".into());
    };
    let device = &Device::open(directory, bar.parse()?, offset.parse()?)?;
    let command = device.config(COMMAND)? & 0xffff | MEMORY_SPACE;
    device.set_command(command)?;
    let value = device.register()?;
    let bytes = device.register_by_bytes()?;
    print!("value={value:x} bytes={bytes:x} ");

    toggle(device, command, [value, bytes])?;

    let (low, high) = (device.config(device.bar)?, device.config(device.bar + 4)?);
    device.set(device.bar, 0xffff_fff0)?;
    let (size, while_sized) = (device.config(device.bar)?, device.register()?);
    device.set(device.bar, low)?;
    print!("size={size:x} while_sized={while_sized:x} after_sizing={:x} ", device.register()?);

    let distance = if low & TYPE_64BIT == 0 { 1 << 24 } else { 1 << 28 };
    device.set(device.bar, low.checked_add(distance).ok_or("the BAR is too high to be moved")?)?;
    let while_moved = device.register()?;
    device.set(device.bar, low)?;
    print!("while_moved={while_moved:x} after_move={:x} ", device.register()?);

    let control = device.power_management()? + PMCSR;
    let state = device.config(control)?;
    device.set(control, state | POWER_STATE)?;
    let in_d3hot = device.register()?;
    device.set(control, state & !POWER_STATE)?;
    // D0 may have reset the function.
    let reset = device.config(device.bar)? != low;
    device.set(device.bar, low)?;
    if low & TYPE_64BIT != 0 {
        device.set(device.bar + 4, high)?;
    }
    device.set_command(command)?;
    println!("in_d3hot={in_d3hot:x} in_d0={:x} reset={}", device.register()?, u8::from(reset));
    Ok(())
}

/// Toggles decoding while another thread reads. `values` are the register's, read as a whole and by bytes.
fn toggle(device: &Device, command: u32, values: [u32; 2]) -> Result<()> {
    let done = AtomicBool::new(false);
    let seen = thread::scope(|scope| -> Result<[u64; 3]> {
        let reader = scope.spawn(|| {
            let mut seen = [0u64; 3];
            while !done.load(Ordering::Relaxed) {
                // A load of a mapped offset does not fail.
                let kind = match device.register() {
                    Ok(read) if values.contains(&read) => 0,
                    Ok(ONES) => 1,
                    _ => 2,
                };
                seen[kind] += 1;
            }
            seen
        });
        let toggled = (0..TOGGLES).try_fold(0u32, |wrong, _| -> Result<u32> {
            device.set_command(command & !MEMORY_SPACE)?;
            let off = device.register()?;
            device.set_command(command)?;
            let on = device.register()?;
            Ok(wrong + u32::from(off != ONES) + u32::from(!values.contains(&on)))
        });
        done.store(true, Ordering::Relaxed);
        let seen = reader.join().map_err(|_| "the reader panicked")?;
        print!("toggles={TOGGLES} wrong={} ", toggled?);
        Ok(seen)
    })?;
    print!("saw_value={} saw_ones={} saw_others={} ", seen[0], seen[1], seen[2]);
    Ok(())
}
