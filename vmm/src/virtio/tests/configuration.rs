//! Status, features and vectors, by the registers of the common configuration (virtio 1.2 §2.1, §2.2, §4.1.4.3).

use super::super::registers::{
    COMMON_FEATURES, DRIVER_OK, EVENT_IDX, FEATURES_OK, NEEDS_RESET, RING_RESET, VERSION_1,
};
use super::{Machine, at};

#[test]
fn a_device_starts_with_status_0_and_its_driver_sets_bits_one_by_one() {
    let machine = Machine::new();
    assert_eq!(machine.status(), 0);
    for status in [1, 3] {
        machine.write(at::DEVICE_STATUS, &[status]);
        assert_eq!(machine.status(), status);
    }
}

#[test]
fn features_are_read_32_at_a_time_and_there_are_none_beyond_64() {
    let machine = Machine::new();
    for (select, features) in [(0u32, COMMON_FEATURES as u32), (1, (COMMON_FEATURES >> 32) as u32), (2, 0)] {
        machine.write(at::DEVICE_FEATURE_SELECT, &select.to_le_bytes());
        assert_eq!(machine.read::<4>(at::DEVICE_FEATURE), u64::from(features));
    }
    assert_ne!(COMMON_FEATURES & VERSION_1, 0);
}

#[test]
fn features_ok_stays_clear_for_features_that_were_not_offered_or_are_not_enough() {
    for (features, is_ok) in [
        (VERSION_1, true),
        (COMMON_FEATURES, true),
        (0, false),
        (EVENT_IDX, false),
        (VERSION_1 | 1 << 34, false),
        (VERSION_1 | 1, false),
        (u64::MAX, false),
    ] {
        let machine = Machine::new();
        machine.take(features);
        machine.write(at::DEVICE_STATUS, &[3 | FEATURES_OK]);
        assert_eq!(machine.status() & FEATURES_OK != 0, is_ok, "{features:#x}");
    }
}

#[test]
fn features_are_fixed_once_features_ok_is_set() {
    let machine = Machine::new();
    machine.take(VERSION_1);
    machine.write(at::DEVICE_STATUS, &[3 | FEATURES_OK]);
    machine.take(u64::MAX);
    assert_eq!(machine.read::<4>(at::DRIVER_FEATURE), VERSION_1 >> 32);
}

#[test]
fn driver_ok_needs_features_ok() {
    let machine = Machine::new();
    machine.write(at::DEVICE_STATUS, &[3 | DRIVER_OK]);
    assert_eq!(machine.status(), 3);
    machine.write(at::DEVICE_STATUS, &[0xff]);
    assert_eq!(machine.status(), 0x83, "no features were taken");
}

#[test]
fn the_driver_cannot_clear_a_status_bit_but_by_reset_nor_set_the_devices_own() {
    let machine = Machine::driven();
    let status = machine.status();
    machine.write(at::DEVICE_STATUS, &[1]);
    assert_eq!(machine.status(), status);
    machine.write(at::DEVICE_STATUS, &[NEEDS_RESET]);
    assert_eq!(machine.status(), status);
    machine.reset();
    assert_eq!(machine.status(), 0);
}

#[test]
fn a_reset_puts_every_register_back() {
    let fresh = Machine::new();
    let machine = Machine::driven();
    machine.reset();
    machine.write(at::DRIVER_FEATURE_SELECT, &0u32.to_le_bytes());
    for register in (0..0x40).step_by(4) {
        assert_eq!(machine.read::<4>(register), fresh.read::<4>(register), "{register:#x}");
    }
}

#[test]
fn vectors_are_none_at_first_and_one_that_is_not_there_reads_back_as_none() {
    let machine = Machine::new();
    for register in [at::CONFIG_MSIX_VECTOR, at::QUEUE_MSIX_VECTOR] {
        assert_eq!(machine.read::<2>(register), 0xffff);
        machine.write16(register, 1);
        assert_eq!(machine.read::<2>(register), 1);
        machine.write16(register, 2);
        assert_eq!(machine.read::<2>(register), 0xffff);
        machine.write16(register, 0);
        machine.write16(register, 0xffff);
        assert_eq!(machine.read::<2>(register), 0xffff);
    }
}

#[test]
fn byte_accesses_add_up_to_the_register() {
    let machine = Machine::new();
    for (at, byte) in (at::QUEUE_DESC..).zip([0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe]) {
        machine.write(at, &[byte]);
    }
    assert_eq!(machine.read::<8>(at::QUEUE_DESC), 0xfedc_ba98_7654_3210);
    assert_eq!(machine.read::<2>(at::QUEUE_DESC + 3), 0x9876);
    // A write to the queue selector in the same DWORD must not change the status.
    machine.write(at::DEVICE_STATUS, &[3]);
    machine.write16(at::QUEUE_SELECT, 9);
    assert_eq!((machine.status(), machine.read::<2>(at::QUEUE_SELECT)), (3, 9));
}

#[test]
fn ring_reset_is_offered() {
    assert_ne!(COMMON_FEATURES & RING_RESET, 0);
}
