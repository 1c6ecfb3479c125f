//! Discovery of the device and its structures (virtio 1.2 §4.1.2, §4.1.4).

use super::{Driver, Machine, Second, at};

#[test]
fn the_device_is_a_modern_one_without_intx() {
    let machine = Machine::new();
    assert_eq!(machine.config_read::<4>(0), 0x1044_1af4);
    assert_eq!(machine.config_read::<1>(8), 1, "revision");
    assert_eq!(machine.config_read::<1>(0x3d), 0, "interrupt pin");
    assert_eq!(Machine::of(Second::model()).config_read::<4>(0), 0x1042_1af4);
}

#[test]
fn each_structure_has_a_capability_that_says_where_it_is() {
    let machine = Machine::of(Second::model());
    for (cfg_type, offset, length) in
        [(1, 0, 0x3c), (2, at::NOTIFY as u32, 8), (3, at::ISR as u32, 1), (4, at::DEVICE_CONFIG as u32, 5)]
    {
        let capability = machine.structure(cfg_type).unwrap();
        assert_eq!(machine.config_read::<1>(capability + 4), 0, "BAR");
        assert_eq!(machine.config_read::<4>(capability + 8), offset);
        assert_eq!(machine.config_read::<4>(capability + 12), length);
        let size = if cfg_type == 2 { 20 } else { 16 };
        assert_eq!(machine.config_read::<1>(capability + 2), size);
    }
    assert_eq!(machine.config_read::<4>(machine.structure(2).unwrap() + 16), 4, "notify_off_multiplier");
}

#[test]
fn a_device_without_configuration_has_no_capability_for_it() {
    assert_eq!(Machine::new().structure(4), None);
    assert_eq!(Machine::new().read::<4>(at::DEVICE_CONFIG), 0);
}

#[test]
fn there_is_a_vector_for_each_queue_and_one_for_the_configuration() {
    for (machine, less_one) in [(Machine::new(), 1), (Machine::of(Second::model()), 2)] {
        assert_eq!(machine.config_read::<2>(machine.msix() + 2) & 0x7ff, less_one);
    }
}

#[test]
fn the_device_configuration_is_read_at_any_width_and_ignores_writes() {
    let machine = Machine::of(Second::model());
    machine.write(at::DEVICE_CONFIG, &[0xff; 8]);
    assert_eq!(machine.read::<8>(at::DEVICE_CONFIG), 0x05_0403_0201);
    assert_eq!(machine.read::<2>(at::DEVICE_CONFIG + 3), 0x0504);
    assert_eq!(machine.read::<4>(at::DEVICE_CONFIG + 4), 5);
}

/// Points the window to `len` bytes of BAR `bar`, and returns the offset of its data register.
fn window(machine: &Machine, bar: u8, offset: u64, len: u32) -> u64 {
    let capability = machine.structure(5).unwrap();
    machine.config_write(capability + 4, &[bar]);
    machine.config_write(capability + 8, &(offset as u32).to_le_bytes());
    machine.config_write(capability + 12, &len.to_le_bytes());
    capability + 16
}

#[test]
fn the_window_accesses_the_bar_even_while_decoding_is_off() {
    let machine = Machine::new();
    machine.config_write(4, &[0, 0]);
    let data = window(&machine, 0, at::NUM_QUEUES, 2);
    assert_eq!(machine.config_read::<2>(data), 1);
    let data = window(&machine, 0, at::DEVICE_STATUS, 1);
    machine.config_write(data, &[3]);
    assert_eq!(machine.config_read::<1>(data), 3);
    let data = window(&machine, 0, at::NOTIFY, 2);
    machine.config_write(data, &[0, 0]);
    assert!(machine.is_rung());
}

#[test]
fn the_window_leads_nowhere_else() {
    let machine = Machine::new();
    for (bar, offset, len) in [
        (1, at::DEVICE_STATUS, 1),
        (0, at::DEVICE_STATUS, 0),
        (0, at::DEVICE_STATUS, 3),
        (0, at::DEVICE_STATUS, 8),
        (0, 0x8000, 1),
        (0, 0x7ffe, 4),
        (0, 0xffff_ffff, 4),
        (0, at::DEVICE_STATUS, 0xffff_ffff),
    ] {
        let data = window(&machine, bar, offset, len);
        machine.config_write(data, &[1, 0, 0, 0]);
        assert_eq!(machine.status(), 0, "{bar} {offset:#x} {len}");
        machine.config_read::<4>(data);
    }
}
