//! A passed-through function on the bus as a guest sees it. A file stands for the device: configuration space at 0,
//! BAR 0 behind it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use rustix::fs::MemfdFlags;
use vm_device::bus::MmioAddress;

use super::capabilities::id;
use super::device::{Device, DeviceBar, DeviceRom};
use super::guest_config::{GuestConfig, HostReset};
use super::interrupts::Interrupts;
use super::interrupts::tests::{Log, interrupts, with_a_full_page};
use super::region::Region;
use super::rom::Rom;
use super::sysfs::HostAddress;
use super::table_pages::tests::seen;
use crate::pci::windows::tests::windows;
use crate::pci::{Bar, Bars, Function, Root};

mod bars;

const CONFIG_SIZE: u64 = 4096;
const BAR_SIZE: u64 = 0x2000;
const COMMAND: u64 = 4;
const EXPRESS: u64 = 0x60;

/// MSI at 0x40, MSI-X at 0x50, PCI Express at 0x60.
fn registers() -> Vec<u8> {
    let mut registers = vec![0; CONFIG_SIZE as usize];
    registers[..8].copy_from_slice(&[0x86, 0x80, 0x10, 0, 0, 0, 0x10, 0]);
    registers[0x34] = 0x40;
    registers[0x40..0x44].copy_from_slice(&[id::MSI, 0x50, 0x80, 0]);
    registers[0x50..0x54].copy_from_slice(&[id::MSIX, 0x60, 0x03, 0]);
    registers[0x60..0x6c].copy_from_slice(&[id::PCI_EXPRESS, 0, 1, 0, 0, 0, 0, 0x10, 0x10, 0x28, 0, 0]);
    registers
}

struct Machine {
    root: Arc<Root>,
    device: Arc<Device>,
    file: Arc<File>,
    log: Log,
}

impl Machine {
    fn new() -> Self {
        let (interrupts, log) = interrupts();
        Self::with(interrupts, log)
    }

    fn with(interrupts: Interrupts, log: Log) -> Self {
        Self::build(&registers(), Bar::new(0, BAR_SIZE).unwrap(), interrupts, log)
    }

    fn build(registers: &[u8], bar: Bar, interrupts: Interrupts, log: Log) -> Self {
        Self::build_with_rom(registers, bar, None, interrupts, log)
    }

    fn build_with_rom(
        registers: &[u8],
        bar: Bar,
        rom: Option<Rom>,
        interrupts: Interrupts,
        log: Log,
    ) -> Self {
        let file = File::from(rustix::fs::memfd_create("device", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(CONFIG_SIZE + bar.size()).unwrap();
        file.write_all_at(registers, 0).unwrap();
        let file = Arc::new(file);
        let bars = Bars::new([Some(bar), None, None, None, None, None]);
        let bars = rom.as_ref().map_or(bars, |rom| bars.with_rom(rom.size()));
        let mut config = GuestConfig::new(registers, bars, HostReset::Supported, interrupts.emulated());
        let root = Root::new(windows());
        config.assign(&root).unwrap();
        let bar = DeviceBar::new(Region::of_file(&file, CONFIG_SIZE, bar.size()), None);
        let device = Arc::new(Device {
            address: HostAddress::parse("01:00.0").unwrap(),
            id: Some("nic".to_owned()),
            reset: HostReset::Supported,
            config: Mutex::new(config),
            host_config: Region::of_file(&file, 0, CONFIG_SIZE),
            interrupts,
            bars: [Some(bar), None, None, None, None, None],
            rom: rom.map(|rom| DeviceRom { rom, mapping: None }),
            file: Arc::clone(&file),
            _container: None,
            resets: AtomicU64::new(0),
            released: AtomicBool::new(false),
        });
        device.start();
        assert_eq!(root.add(Arc::clone(&device) as Arc<dyn Function>).unwrap().to_string(), "00:01.0");
        Self { root, device, file, log }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.root.ecam().mmio_write(MmioAddress(0), (8 << 12) + offset, data);
    }

    fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.root.ecam().mmio_read(MmioAddress(0), (8 << 12) + offset, &mut data);
        data
    }

    fn host<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.file.read_exact_at(&mut data, offset).unwrap();
        data
    }
}

#[test]
fn the_hosts_device_decodes_always_and_issues_requests_when_the_guest_says() {
    let machine = Machine::new();
    assert_eq!(machine.host(COMMAND), [0x02, 0x04]);
    machine.write(COMMAND, &[0x06, 0]);
    assert_eq!((machine.host(COMMAND), machine.read(COMMAND)), ([0x06, 0x04], [0x06, 0]));
    machine.write(COMMAND, &[0]);
    assert_eq!((machine.host(COMMAND), machine.read(COMMAND)), ([0x02, 0x04], [0, 0]));
}

#[test]
fn bar_accesses_reach_the_device_where_the_guest_has_put_the_bar() {
    let machine = Machine::new();
    machine.write(0x10, &0xd000_0000_u32.to_le_bytes());
    machine.write(COMMAND, &[0x02]);
    machine.root.mmio().mmio_write(MmioAddress(0xc000_0000), 0x1000_0124, &[1, 2, 3, 4]);
    assert_eq!(machine.host(CONFIG_SIZE + 0x124), [1, 2, 3, 4]);
    let mut data = [0; 8];
    machine.root.mmio().mmio_read(MmioAddress(0xd000_0122), 0, &mut data);
    assert_eq!(data, [0, 0, 1, 2, 3, 4, 0, 0]);
    machine.write(COMMAND, &[0]);
    machine.root.mmio().mmio_read(MmioAddress(0xd000_0122), 0, &mut data);
    assert_eq!(data, [0xff; 8]);
}

#[test]
fn a_function_level_reset_tears_down_resets_and_leaves_registers_as_after_power_on() {
    let machine = Machine::new();
    machine.write(COMMAND, &[0x06, 0]);
    machine.write(EXPRESS + 8, &[0x1f, 0x50]);
    assert_eq!(machine.host(EXPRESS + 8), [0x1f, 0x50]);
    machine.write(EXPRESS + 8, &[0x1f, 0xd0]);
    assert_eq!(*machine.log.lock().unwrap(), ["msi down", "msix down", "msix forgets", "msi forgets"]);
    assert_eq!((machine.read(COMMAND), machine.host(COMMAND)), ([0, 0], [0x02, 0x04]));
    assert_eq!(machine.read(0x10), [0; 4]);
    assert_eq!(machine.host(EXPRESS + 8), [0x10, 0x28], "device control is as it was found");
    let report = machine.device.report().unwrap();
    assert_eq!((&report["guest_resets"], &report["id"]), (&1.into(), &"nic".into()));
}

#[test]
fn a_reset_shows_in_the_pages_of_the_table_before_the_guests_write_returns() {
    let machine = Machine::with(with_a_full_page(), Log::default());
    let (bytes, memory) = machine.device.interrupts().readable(0).unwrap();
    assert_eq!(bytes, 0..0x1000);
    let at_power_on = seen(&memory);
    let write_table = || {
        machine.write(COMMAND, &[0x06, 0]);
        machine.root.mmio().mmio_write(MmioAddress(0xc000_0000), 0xff0, &[0x5a; 8]);
        assert_eq!(seen(&memory)[0xff0..0xff8], [0x5a; 8]);
    };
    write_table();
    // A function-level reset.
    machine.write(EXPRESS + 8, &[0x1f, 0xd0]);
    assert!(seen(&memory) == at_power_on);
    // Restore the firmware's addresses.
    machine.write(0x10, &0xc000_0000_u32.to_le_bytes());
    write_table();
    machine.root.release();
    assert!(seen(&memory) == at_power_on);
}

#[test]
fn accesses_that_exit_are_counted_for_each_bar() {
    let machine = Machine::with(with_a_full_page(), Log::default());
    machine.write(COMMAND, &[0x02, 0]);
    let mmio = machine.root.mmio();
    let counts = || {
        let bar = &machine.device.report().unwrap()["bars"][0];
        (bar["trapped_reads"].as_u64().unwrap(), bar["trapped_writes"].as_u64().unwrap())
    };
    assert_eq!(counts(), (0, 0));
    mmio.mmio_read(MmioAddress(0xc000_0000), 0x10, &mut [0; 4]);
    mmio.mmio_write(MmioAddress(0xc000_0000), 0x10, &[0; 4]);
    mmio.mmio_write(MmioAddress(0xc000_0000), 0x1ff0, &[0; 8]);
    mmio.mmio_write(MmioAddress(0xc100_0000), 0, &[0; 8]);
    assert_eq!(counts(), (1, 2));
}

#[test]
fn a_device_is_released_once_and_issues_no_requests_afterwards() {
    let Machine { root, device, file, log } = Machine::new();
    root.ecam().mmio_write(MmioAddress(0), (8 << 12) + COMMAND, &[0x06, 0]);
    root.release();
    drop((root, device));
    let mut command = [0; 2];
    file.read_exact_at(&mut command, COMMAND).unwrap();
    assert_eq!(command, [0x02, 0x04]);
    assert_eq!(log.lock().unwrap().iter().filter(|line| line.ends_with("down")).count(), 2);
}

#[test]
fn accesses_of_any_offset_width_and_value_reach_only_forwarded_registers() {
    let machine = Machine::new();
    for value in [0x00, 0x5a, 0xff] {
        for len in [1, 2, 3, 4, 8, 16] {
            for offset in 0..CONFIG_SIZE {
                machine.write(offset, &vec![value; len]);
                let mut data = vec![0; len];
                machine.root.ecam().mmio_read(MmioAddress(0), (8 << 12) + offset, &mut data);
            }
            for address in (0xc000_0000..0xc000_2010).step_by(7) {
                machine.root.mmio().mmio_write(MmioAddress(address), 0, &vec![value; len]);
            }
        }
    }
    let (found, now) = (registers(), machine.host::<{ CONFIG_SIZE as usize }>(0));
    for untouched in [0..4, 8..0xc, 0x10..0x4e, 0x50..0x5c] {
        assert_eq!(now[untouched.clone()], found[untouched]);
    }
    let [low, high] = machine.host(COMMAND);
    assert_eq!((low & 0b11, high & 0b100), (0b10, 0b100), "decoding, and no INTx");
}
