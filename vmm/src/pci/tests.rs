//! The bus as a guest sees it, with functions backed by memory.

use std::sync::{Arc, Mutex};

use vm_device::bus::{MmioAddress, PioAddress};

use super::bar::{Bar, Bars, COMMAND};
use super::config::{ConfigSpace, Register};
use super::function::{BarAddresses, DECODER_COUNT, Decoding, DeviceFunction, Function, Pages};
use super::root::Root;
use super::windows::{Space, tests::windows};

/// A function with a 32-bit BAR 0 of 4 KiB, or less, and an I/O BAR 1 of 16 ports, and memory behind them.
struct Memory {
    bars: Bars,
    space: Mutex<ConfigSpace>,
    contents: Mutex<Vec<u8>>,
    addresses: Mutex<Vec<BarAddresses>>,
}

impl Memory {
    fn on(root: &Root) -> (DeviceFunction, Arc<Self>) {
        Self::of_size(root, 0x1000)
    }

    fn of_size(root: &Root, size: u64) -> (DeviceFunction, Arc<Self>) {
        let bars = Bars::new([Bar::new(0, size), Bar::new(1, 0x10), None, None, None, None]);
        let mut space = ConfigSpace::emulated();
        space.fix(0, &[0x34, 0x12, 0x78, 0x56]);
        space.define(
            COMMAND,
            &[Register { width: 2, emulated: 0xffff, writable: 0x407, ..Register::default() }],
        );
        bars.define(&mut space);
        root.assign(&bars, &mut space).unwrap();
        let function = Arc::new(Self {
            bars,
            space: Mutex::new(space),
            contents: Mutex::new(vec![0; 0x1000]),
            addresses: Mutex::default(),
        });
        (root.add(Arc::clone(&function) as Arc<dyn Function>).unwrap(), function)
    }

    fn bar0(&self) -> u64 {
        u64::from(self.space.lock().unwrap().value(0x10, 4))
    }
}

impl Function for Memory {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        assert!(usize::from(offset) + data.len() <= 4096);
        self.space.lock().unwrap().merge(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        assert!(usize::from(offset) + data.len() <= 4096);
        self.space.lock().unwrap().write(offset, data);
    }

    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        assert!(offset + data.len() as u64 <= if bar == 0 { 0x1000 } else { 0x10 });
        data.copy_from_slice(&self.contents.lock().unwrap()[offset as usize..][..data.len()]);
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) {
        assert!(offset + data.len() as u64 <= if bar == 0 { 0x1000 } else { 0x10 });
        self.contents.lock().unwrap()[offset as usize..][..data.len()].copy_from_slice(data);
    }

    fn decoding(&self) -> Decoding {
        self.bars.decode(&self.space.lock().unwrap())
    }

    fn update_bars(&self, addresses: &BarAddresses) {
        self.addresses.lock().unwrap().push(*addresses);
    }

    fn release(&self) {}

    fn report(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "bar0": self.bar0() }))
    }
}

fn ecam_read<const N: usize>(root: &Arc<Root>, offset: u64) -> [u8; N] {
    let mut data = [0; N];
    root.ecam().mmio_read(MmioAddress(0xe000_0000), offset, &mut data);
    data
}

fn ecam_write(root: &Arc<Root>, offset: u64, data: &[u8]) {
    root.ecam().mmio_write(MmioAddress(0xe000_0000), offset, data);
}

fn port_read<const N: usize>(root: &Arc<Root>, port: u16) -> [u8; N] {
    let mut data = [0; N];
    root.config_ports().pio_read(PioAddress(0xcf8), port - 0xcf8, &mut data);
    data
}

fn port_write(root: &Arc<Root>, port: u16, data: &[u8]) {
    root.config_ports().pio_write(PioAddress(0xcf8), port - 0xcf8, data);
}

#[test]
fn functions_are_found_by_both_mechanisms_and_absent_ones_read_all_ones() {
    let root = Root::new(windows());
    let (place, _) = Memory::on(&root);
    assert_eq!(place.to_string(), "00:01.0");
    assert_eq!(ecam_read::<4>(&root, 0), [0x36, 0x1b, 8, 0]);
    assert_eq!(ecam_read::<4>(&root, 8 << 12), [0x34, 0x12, 0x78, 0x56]);
    assert_eq!(ecam_read::<4>(&root, 9 << 12), [0xff; 4]);
    assert_eq!(ecam_read::<8>(&root, (9 << 12) - 2), [0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(ecam_read::<4>(&root, 0x10_0000), [0xff; 4], "another bus");
    port_write(&root, 0xcf8, &0x8000_0800_u32.to_le_bytes());
    assert_eq!(port_read::<4>(&root, 0xcf8), 0x8000_0800_u32.to_le_bytes());
    assert_eq!(port_read::<4>(&root, 0xcfc), [0x34, 0x12, 0x78, 0x56]);
    assert_eq!(port_read::<2>(&root, 0xcfe), [0x78, 0x56]);
    assert_eq!(port_read::<1>(&root, 0xcfd), [0x12]);
    assert_eq!(port_read::<4>(&root, 0xcfe), [0x78, 0x56, 0xff, 0xff], "over the last lane");
    for (address, why) in [(0x0000_0800_u32, "not enabled"), (0x8001_0800, "bus 1"), (0x8000_1000, "absent")]
    {
        port_write(&root, 0xcf8, &address.to_le_bytes());
        assert_eq!(port_read::<4>(&root, 0xcfc), [0xff; 4], "{why}");
    }
}

#[test]
fn a_narrow_write_to_config_address_is_not_one() {
    let root = Root::new(windows());
    port_write(&root, 0xcf8, &0x8000_0800_u32.to_le_bytes());
    port_write(&root, 0xcf9, &[6]);
    port_write(&root, 0xcf8, &[0, 0]);
    assert_eq!(port_read::<4>(&root, 0xcf8), 0x8000_0800_u32.to_le_bytes());
    assert_eq!(port_read::<1>(&root, 0xcf9), [0xff]);
}

#[test]
fn bars_answer_where_the_guest_puts_them_and_only_while_decoding_is_on() {
    let root = Root::new(windows());
    let (_, function) = Memory::on(&root);
    let config = 8 << 12;
    let peek = |address| {
        let mut data = [0; 4];
        root.mmio().mmio_read(MmioAddress(0), address, &mut data);
        data
    };
    let bar0 = function.bar0();
    assert_eq!(peek(bar0), [0xff; 4], "decoding is off at reset");
    ecam_write(&root, config + 4, &[2, 0]);
    root.mmio().mmio_write(MmioAddress(0xc000_0000), bar0 + 8 - 0xc000_0000, &[1, 2, 3, 4]);
    assert_eq!(peek(bar0 + 8), [1, 2, 3, 4]);
    assert_eq!(peek(bar0 + 0xffe)[2..], [0xff, 0xff], "over the end");
    assert_eq!(peek(bar0 - 2), [0xff, 0xff, 0, 0], "over the start");

    ecam_write(&root, config + 0x10, &0xd000_0000_u32.to_le_bytes());
    assert_eq!(peek(bar0 + 8), [0xff; 4]);
    assert_eq!(peek(0xd000_0008), [1, 2, 3, 4]);
    ecam_write(&root, config + 4, &[1, 0]);
    assert_eq!(peek(0xd000_0008), [0xff; 4]);
    let mut data = [0; 2];
    let port = function.space.lock().unwrap().value(0x14, 4) as u16 & !3;
    root.pio().pio_read(PioAddress(0xc000), port + 9 - 0xc000, &mut data);
    assert_eq!(data, [2, 3]);
    let starts: Vec<_> =
        function.addresses.lock().unwrap().iter().map(|p| p[0].map(|p| p.range.start())).collect();
    let (first, second) = (Some(bar0), Some(0xd000_0000));
    assert_eq!(starts, [None, first, None, second, None, None], "each move takes away before it gives");
}

#[test]
fn a_colliding_or_absurd_bar_harms_only_its_owner() {
    let root = Root::new(windows());
    let (_, first) = Memory::on(&root);
    let (_, second) = Memory::on(&root);
    for config in [8 << 12, 16 << 12] {
        ecam_write(&root, config + 4, &[2, 0]);
    }
    let home = second.bar0();
    let collide = u32::try_from(first.bar0()).unwrap();
    let last = |function: &Memory| function.addresses.lock().unwrap().last().copied().unwrap();
    for address in [collide, 0, 0x1000, 0xe000_0000, 0xfee0_0000, 0xffff_f000] {
        ecam_write(&root, (16 << 12) + 0x10, &address.to_le_bytes());
        assert_eq!(last(&second), [None; DECODER_COUNT], "{address:#x}");
        assert_eq!(last(&first)[0].unwrap().range.start(), first.bar0());
    }
    ecam_write(&root, (16 << 12) + 0x10, &collide.to_le_bytes());
    ecam_write(&root, (8 << 12) + 4, &[0, 0]);
    assert_eq!(last(&second)[0].unwrap().range.start(), first.bar0(), "the place is free now");
    ecam_write(&root, (16 << 12) + 0x10, &u32::try_from(home).unwrap().to_le_bytes());
    assert_eq!(last(&second)[0].unwrap().range.start(), home);
}

#[test]
fn a_bar_that_comes_to_anothers_page_has_both_told_and_the_other_first() {
    let root = Root::new(windows());
    let (_, first) = Memory::of_size(&root, 0x100);
    let (_, second) = Memory::of_size(&root, 0x100);
    for config in [8 << 12, 16 << 12] {
        ecam_write(&root, config + 4, &[2, 0]);
    }
    let places = |function: &Memory| -> Vec<_> {
        let seen = std::mem::take(&mut *function.addresses.lock().unwrap());
        seen.iter().map(|addresses| addresses[0].map(|place| (place.range.start(), place.pages))).collect()
    };
    let (home, away) = (first.bar0(), second.bar0());
    assert_eq!(places(&first).last(), Some(&Some((home, Pages::Exclusive))));
    assert_eq!(places(&second).last(), Some(&Some((away, Pages::Exclusive))));
    let within = home + 0x800;
    ecam_write(&root, (16 << 12) + 0x10, &u32::try_from(within).unwrap().to_le_bytes());
    assert_eq!(places(&first), [None, Some((home, Pages::Shared))], "out of its page, and then back");
    assert_eq!(places(&second), [None, Some((within, Pages::Shared))]);
    ecam_write(&root, (16 << 12) + 0x10, &u32::try_from(away).unwrap().to_le_bytes());
    assert_eq!(places(&first), [None, Some((home, Pages::Exclusive))]);
    assert_eq!(places(&second), [None, Some((away, Pages::Exclusive))]);
}

#[test]
fn the_bus_takes_31_devices_and_then_further_functions() {
    let root = Root::new(windows());
    let places: Vec<_> = (0..248).map(|_| Memory::on(&root).0.to_string()).collect();
    assert_eq!((places[0].as_str(), places[30].as_str()), ("00:01.0", "00:1f.0"));
    assert_eq!((places[31].as_str(), places[247].as_str()), ("00:01.1", "00:1f.7"));
    let one_more = Memory::on(&Root::new(windows())).1;
    assert!(root.add(one_more).is_err());
    assert_eq!(ecam_read::<1>(&root, (8 << 12) + 0xe), [0x80]);
    assert_eq!(ecam_read::<4>(&root, (8 << 12) + 0xc), [0, 0, 0x80, 0]);
    assert_eq!(ecam_read::<1>(&root, (9 << 12) + 0xe), [0]);
    assert_eq!(ecam_read::<1>(&root, 0xe), [0], "the host bridge is alone in its device");
    assert_eq!(root.reports().len(), 248);
}

#[test]
fn a_function_is_added_at_its_own_number_and_others_go_around_it() {
    let root = Root::new(windows());
    let (_, function) = Memory::on(&Root::new(windows()));
    let add = |bits| root.add_at(DeviceFunction::from_bits(bits), Arc::clone(&function) as Arc<dyn Function>);
    add(1 << 3).unwrap();
    add(5 << 3 | 2).unwrap();
    add(5 << 3).unwrap();
    assert_eq!(add(5 << 3 | 2).unwrap_err().to_string(), "00:05.2 on the PCI bus is in use");
    assert!(add(0).is_err(), "the host bridge");
    assert_eq!(Memory::on(&root).0.to_string(), "00:02.0");
    assert_eq!(ecam_read::<1>(&root, (5 << 15) + 0xe), [0x80]);
    assert_eq!(ecam_read::<4>(&root, (5 << 15) + (2 << 12)), [0x34, 0x12, 0x78, 0x56]);
}

#[test]
fn no_access_of_any_offset_width_and_value_stops_the_bus() {
    let root = Root::new(windows());
    Memory::on(&root);
    Memory::on(&root);
    for value in [0x00, 0x5a, 0xff] {
        for len in 0..=9 {
            let mut data = vec![value; len];
            for offset in (0..0x1008).chain([0xf_ffff, 0x10_0000, u64::MAX]) {
                let offset = offset + if offset < 0x1008 { 8 << 12 } else { 0 };
                ecam_write(&root, offset, &data);
                root.ecam().mmio_read(MmioAddress(0xe000_0000), offset, &mut data);
                data.fill(value);
            }
            for port in 0..8 {
                root.config_ports().pio_write(PioAddress(0xcf8), port, &data);
                root.config_ports().pio_read(PioAddress(0xcf8), port, &mut data);
            }
            for address in [0, 0xc000_0ffd, 0xdfff_ffff, u64::MAX - 1, u64::MAX] {
                root.mmio().mmio_write(MmioAddress(address), 0, &data);
                root.mmio().mmio_read(MmioAddress(0), address, &mut data);
                root.pio().pio_write(PioAddress(address as u16), 1, &data);
                root.pio().pio_read(PioAddress(address as u16), 1, &mut data);
            }
        }
    }
    let mut last = [0; 1];
    root.write(Space::Memory, u64::MAX, &[0; 8]);
    root.read(Space::Memory, u64::MAX, &mut last);
    assert_eq!(last, [0xff]);
}
