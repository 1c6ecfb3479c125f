//! Entrances of the fuzz targets ([`crate::fuzzing`]) to what only this module sees.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a fuzz target panics where a promise is broken"
)]

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use vm_msi::MsixFunction;
use vm_msi::msix::{Bar as MsixBar, Layout, TableSize};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};

use super::config_tests::{Passed, invariants};
use super::device::{Device, DeviceBar};
use super::guest_config::{GuestConfig, HostReset};
use super::interrupts::Interrupts;
use super::region::Region;
use super::region_info::RegionInfo;
use super::sysfs::HostAddress;
use crate::pci::{Bar, Bars, Function, Root};

const CONFIG_SIZE: u64 = 4096;
const BAR_SIZE: u64 = 0x4000;

/// The size of a region and the areas to map, from a host that answers with `request`.
pub(crate) fn fuzzed_region_areas(
    request: impl FnMut(&mut [u64]) -> io::Result<()>,
) -> io::Result<(u64, Vec<Range<u64>>)> {
    RegionInfo::request(request).map(|info| (info.size, info.areas()))
}

/// Asserts what holds for a device with these registers, also when they change afterwards.
pub(crate) fn fuzzed_config_space(found: &[u8], changes: &[(usize, u8)]) {
    invariants::assert_all(found);
    let mut passed = Passed::new(found.to_vec());
    for (at, value) in changes {
        passed.device[*at] = *value;
        passed.list();
        passed.extended_list();
        passed.write(*at as u16, &[*value; 4]);
    }
}

/// A passed-through function with MSI-X and PCI Express, over a file in place of the device and a fake backend.
pub(crate) fn fuzzed_function(root: &Arc<Root>) -> Arc<dyn Function> {
    let mut registers = vec![0; CONFIG_SIZE as usize];
    registers[..8].copy_from_slice(&[0x86, 0x80, 0x10, 0, 0, 0, 0x10, 0]);
    registers[0x34] = 0x50;
    registers[0x50..0x54].copy_from_slice(&[0x11, 0x60, 0xff, 0]);
    registers[0x60..0x6c].copy_from_slice(&[0x10, 0, 1, 0, 0, 0, 0, 0x10, 0x10, 0x28, 0, 0]);
    let table_bar = MsixBar::new(0).expect("a BAR");
    let size = TableSize::new(256).expect("a size");
    let layout = Layout::new(size, (table_bar, 0), (table_bar, 0x1000)).expect("a layout");
    let failures = Failures::default();
    let router = Arc::new(FakeRouter::new(failures.clone()));
    let function = MsixFunction::new(layout, router, FakeBackend::new(failures));
    let interrupts = Interrupts::of_msix(function).expect("memory for the table's pages");

    let memory = rustix::fs::memfd_create("device", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
    let file = Arc::new(std::fs::File::from(memory));
    file.set_len(CONFIG_SIZE + BAR_SIZE).expect("room for the device");
    file.write_all_at(&registers, 0).expect("room for the device");
    let bar = Bar::new(0, BAR_SIZE);
    let bars = Bars::new([bar, None, None, None, None, None]);
    let mut config = GuestConfig::new(&registers, bars, HostReset::Unsupported, interrupts.emulated());
    config.assign(root).expect("room for the BAR");
    let region = Region::of_file(&file, CONFIG_SIZE, BAR_SIZE);
    let device = Device {
        address: HostAddress::parse("01:00.0").expect("an address"),
        id: None,
        reset: HostReset::Unsupported,
        config: Mutex::new(config),
        host_config: Region::of_file(&file, 0, CONFIG_SIZE),
        interrupts,
        bars: [Some(DeviceBar::new(region, None)), None, None, None, None, None],
        rom: None,
        file,
        _container: None,
        resets: AtomicU64::new(0),
        released: AtomicBool::new(false),
    };
    device.start();
    Arc::new(device)
}
