//! Shapes of known devices, with registers where they have theirs.

use vm_msi::msix::Layout;

use super::*;

/// Asserts that the guest reads the device's register and that its write reaches the device, byte by byte.
fn passes_through(passed: &mut Passed, at: u16) {
    let found = u32::from_le_bytes(*passed.device[usize::from(at)..].first_chunk().unwrap());
    assert_eq!(passed.read(at), found, "{at:#x}");
    assert_eq!(passed.write(at, &[1, 2, 3, 4]), [(at, vec![1, 2, 3, 4])]);
    assert_eq!(passed.write(at + 3, &[5]), [(at + 3, vec![5])]);
    assert_eq!(passed.read(at), 0x0503_0201);
}

/// Asserts that the guest reads 0 and that its writes do not reach the device.
fn is_hidden(passed: &mut Passed, bytes: Range<u16>) {
    for at in bytes {
        assert_eq!(passed.view()[usize::from(at)], 0, "{at:#x}");
        assert_eq!(passed.write(at, &[0xff]), [], "{at:#x}");
    }
}

/// A GPU's audio controller is enabled at 0x488, behind Power Budgeting of 16 bytes.
#[test]
fn registers_behind_a_hidden_extended_capability_of_known_length_are_the_devices() {
    let mut host = function(0);
    mark(&mut host, 0x104..0x1000);
    put32(&mut host, 0x100, 0x1281_0002);
    put(&mut host, 0x104, &[0; 12]);
    put32(&mut host, 0x128, 0x6001_0004);
    put32(&mut host, 0x600, 0x0001_000b);
    put32(&mut host, 0x488, 0x0200_0596);
    let mut passed = Passed::new(host);
    assert_eq!(passed.extended_list(), [(0x600, 0x0b)]);
    is_hidden(&mut passed, 0x104..0x11c);
    is_hidden(&mut passed, 0x128..0x138);
    for at in [0x11c, 0x124, 0x138, 0x488, 0x5fc, 0x604, 0xffc] {
        passes_through(&mut passed, at);
    }
}

/// An ICH8 has registers at 0xf8, behind a SATA capability of 8 bytes that is the last of the list.
#[test]
fn registers_behind_a_hidden_sata_capability_are_the_devices() {
    for (kind, end) in [(0x48, 0xb0), (0x4f, 0xb8)] {
        let mut host = function(0x70);
        mark(&mut host, 0xb0..0x100);
        put(&mut host, 0x70, &[1, 0xa8, 3, 0x40]);
        put(&mut host, 0xa8, &[0x12, 0, 0x10, 0, kind, 0, 0, 0]);
        put32(&mut host, 0xf8, 0x0005_0f86);
        let mut passed = Passed::new(host);
        assert_eq!(passed.list(), [(0x70, 1)]);
        is_hidden(&mut passed, 0xa8..end);
        passes_through(&mut passed, end);
        passes_through(&mut passed, 0xf8);
    }
}

/// An AR928x says that its MSI-X table and pending bits are at the same place.
#[test]
fn an_impossible_msi_x_is_hidden_in_its_12_bytes_and_msi_stays() {
    let mut host = function(0x40);
    mark(&mut host, 0x9c..0x100);
    put(&mut host, 0x40, &[1, 0x50, 2, 0]);
    put(&mut host, 0x50, &[5, 0x90, 0, 0]);
    put(&mut host, 0x90, &[0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    put32(&mut host, 0xa0, 4);
    assert!(Layout::parse(host[0x90..].first_chunk().unwrap()).is_err());
    let mut passed = Passed::new(host);
    assert_eq!(passed.list(), [(0x40, 1), (0x50, 5)]);
    is_hidden(&mut passed, 0x90..0x9c);
    for at in [0x9c, 0xa0, 0xfc] {
        passes_through(&mut passed, at);
    }
}

/// PCI-X has 8 bytes in an endpoint, and 24 with error correction. An 82540 has MSI behind it.
#[test]
fn registers_behind_a_hidden_pci_x_capability_are_the_devices() {
    for (command, end) in [(0x0002u16, 0xec), (0x1002, 0xfc)] {
        let mut host = function(0xdc);
        mark(&mut host, 0xe8..0x100);
        put(&mut host, 0xdc, &[1, 0xe4, 2, 0xc0]);
        put(&mut host, 0xe4, &[7, 0]);
        put(&mut host, 0xe6, &command.to_le_bytes());
        let mut passed = Passed::new(host);
        is_hidden(&mut passed, 0xe4..end);
        passes_through(&mut passed, end);
    }
    let mut host = function(0xe4);
    put(&mut host, 0xe4, &[7, 0xf0, 2, 0x20]);
    put(&mut host, 0xf0, &[5, 0, 0x80, 0]);
    assert_eq!(Passed::new(host).list(), [(0xf0, 5)], "it is cut at the next capability");
}

/// An IOH's integrated endpoint (8086:342e) has registers of its own at 0x6c, behind PCI Express of 44 bytes.
#[test]
fn registers_behind_an_integrated_endpoints_express_capability_are_the_devices() {
    for (version, port, end) in [(1, 9, 0x4c), (1, 0, 0x54), (2, 9, 0x6c), (2, 0, 0x7c)] {
        let mut host = function(0x40);
        mark(&mut host, 0x4c..0x100);
        put(&mut host, 0x40, &[0x10, 0, port << 4 | version, 0, 0, 0x80, 0, 0]);
        let mut passed = Passed::new(host);
        passes_through(&mut passed, end);
        passes_through(&mut passed, end + 4);
        assert_eq!(passed.read(0x4c) & 0xffff == 0, end > 0x4c, "link capabilities");
        assert_eq!(passed.read(0x40) >> 16, 0x90 | u32::from(version));
    }
}

#[test]
fn a_capability_right_behind_a_short_express_capability_is_whole() {
    let mut host = function(0x40);
    put(&mut host, 0x40, &[0x10, 0x6c, 0x92, 0, 0, 0x80, 0, 0x10]);
    put(&mut host, 0x6c, &[0x11, 0x78, 7, 0, 0, 0, 0, 0, 0, 0x10, 0, 0]);
    put(&mut host, 0x78, &[1, 0, 3, 0, 8, 0, 0, 0]);
    assert_eq!(Passed::new(host).list(), [(0x40, 0x10), (0x6c, 0x11), (0x78, 1)]);

    let mut host = function(0x40);
    put(&mut host, 0x40, &[0x10, 0x4c, 0x91, 0, 0, 0x80, 0, 0]);
    put(&mut host, 0x4c, &[5, 0x60, 0x80, 0]);
    put(&mut host, 0x60, &[1, 0, 3, 0, 8, 0, 0, 0]);
    assert_eq!(Passed::new(host).list(), [(0x40, 0x10), (0x4c, 5), (0x60, 1)]);
}

/// A list that is shorter than the specification allows: PCI Express with 8 bytes, power management with 4, and
/// advanced features with 4.
#[test]
fn a_capability_that_is_cut_short_has_no_registers_in_the_next_one() {
    let mut host = function(0x40);
    put(&mut host, 0x40, &[0x10, 0x48, 2, 0, 0, 0x80, 0, 0x10]);
    put(&mut host, 0x48, &[1, 0x4c, 3, 0]);
    put(&mut host, 0x4c, &[0x13, 0x50, 6, 3]);
    put(&mut host, 0x50, &[9, 0, 0x20, 0x55, 0x66, 0x77, 0x80, 0x80]);
    let mut passed = Passed::new(host);
    assert_eq!(passed.list(), [(0x40, 0x10), (0x48, 1), (0x4c, 0x13), (0x50, 9)]);
    for at in [0x54, 0x58, 0x68] {
        passes_through(&mut passed, at);
    }
    passed.write(0x4c, &[3, 3, 3, 3]);
    passed.write(0x48, &[0xff; 8]);
    assert!(passed.config.reset().is_empty(), "no control register is the capability's");
}

/// A virtual function of an 82599 reports version 0.
#[test]
fn an_express_capability_of_version_0_is_seen_as_version_1() {
    let mut host = function(0xa0);
    mark(&mut host, 0xa4..0x100);
    put(&mut host, 0xa0, &[0x10, 0, 0, 0]);
    let mut passed = Passed::new(host);
    assert_eq!(passed.read(0xa0), 0x0091_0010);
    assert_eq!(passed.read(0xac), 0, "link capabilities");
    passes_through(&mut passed, 0xb4);
}

#[test]
fn command_and_status_in_one_read_show_the_capability_list() {
    let mut host = function(0x50);
    put(&mut host, 0x50, &[5, 0, 0x80, 0]);
    let passed = Passed::new(host);
    assert_eq!(passed.read(4), 0x0010_0000);
    assert_eq!(passed.list(), [(0x50, 5)]);
    assert_eq!(Passed::new(function(0)).read(4), 0);
}

/// Linux and others size a BAR with decoding on: while it is sized it decodes nothing that is on the bus.
#[test]
fn a_bar_is_sized_while_it_decodes() {
    let mut passed = Passed::new(function(0));
    passed.write(0x10, &0xc000_0000_u32.to_le_bytes());
    passed.write(4, &[2, 0]);
    let before = passed.config.decoding()[0];
    assert!(before.is_some());
    passed.write(0x10, &[0xff; 4]);
    passed.write(0x14, &[0xff; 4]);
    assert_eq!((passed.read(0x10), passed.read(0x14)), (0xffff_c004, 0xffff_ffff));
    passed.write(0x10, &0xc000_0000_u32.to_le_bytes());
    passed.write(0x14, &[0; 4]);
    assert_eq!(passed.config.decoding()[0], before);
}

/// A BE2 has registers in the gaps of its list. One of them is its interrupt enable.
#[test]
fn registers_in_the_gaps_of_the_list_are_the_devices() {
    let mut host = function(0x40);
    mark(&mut host, 0x40..0x100);
    put(&mut host, 0x40, &[1, 0x48, 3, 0, 0, 0, 0, 0]);
    put(&mut host, 0x48, &[0x11, 0xc0, 31, 0, 2, 0, 0, 0, 2, 0x10, 0, 0]);
    put(&mut host, 0xc0, &[0x10, 0xb8, 2, 0]);
    put(&mut host, 0xb8, &[3, 0, 0, 0]);
    let mut passed = Passed::new(host);
    assert_eq!(passed.list(), [(0x40, 1), (0x48, 0x11), (0xc0, 0x10), (0xb8, 3)]);
    for at in [0x54, 0x58, 0x94, 0xa0, 0xb4, 0xfc] {
        passes_through(&mut passed, at);
    }
}

/// Fills bytes with values that differ from 0 and from their neighbours.
fn mark(host: &mut [u8], bytes: Range<usize>) {
    for at in bytes {
        host[at] = (at as u8) | 0x81;
    }
}
