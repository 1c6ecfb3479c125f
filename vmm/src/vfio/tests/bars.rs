//! BARs as a guest sees them in situations that have ended other VMMs: odd places of the MSI-X table, sizing and moving
//! while decoding is on, decoding that ends under an access, and D3hot.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::vfio::interrupts::tests::with_table;
use crate::vfio::rom::RomSource;

const POWER: u64 = 0x40;
const PMCSR: u64 = POWER + 4;
const D0: [u8; 1] = [0];
const D3_HOT: [u8; 1] = [3];
/// Where the bus has put the BAR.
const BAR_32: u64 = 0xc000_0000;
const BAR_64: u64 = 0x40_0000_0000;

/// A function with power management at 0x40 and MSI-X at 0x50. `pmcsr` is its power management register.
fn powered(pmcsr: u8) -> Vec<u8> {
    let mut registers = vec![0; CONFIG_SIZE as usize];
    registers[..8].copy_from_slice(&[0x86, 0x80, 0x10, 0, 0, 0, 0x10, 0]);
    registers[0x34] = POWER as u8;
    registers[0x40..0x46].copy_from_slice(&[id::POWER_MANAGEMENT, 0x50, 3, 0, pmcsr, 0]);
    registers[0x50..0x54].copy_from_slice(&[id::MSIX, 0, 0x80, 0]);
    registers
}

fn machine(bar: Bar, interrupts: Interrupts) -> Machine {
    Machine::build(&powered(8), bar, interrupts, Log::default())
}

impl Machine {
    fn peek<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut data = [0x11; N];
        self.root.mmio().mmio_read(MmioAddress(address), 0, &mut data);
        data
    }

    fn poke(&self, address: u64, data: &[u8]) {
        self.root.mmio().mmio_write(MmioAddress(address), 0, data);
    }
}

#[test]
fn a_table_at_0x5200_is_emulated_to_the_byte_and_its_neighbours_are_the_devices() {
    // 129 entries end at 0x5a10, pending bits are at 0xd600.
    let machine = machine(Bar::new(0, 0x1_0000).unwrap(), with_table(129, 0x5200, 0xd600));
    machine.write(COMMAND, &[2, 0]);
    let device = |offset: u64| machine.host::<4>(CONFIG_SIZE + offset);
    for doorbell in [0x5000, 0x51fc, 0x5a10, 0x5ffc, 0xd5fc, 0xd618] {
        machine.poke(BAR_32 + doorbell, &[1, 2, 3, doorbell as u8]);
        assert_eq!(device(doorbell), [1, 2, 3, doorbell as u8], "{doorbell:#x}");
        assert_eq!(machine.peek(BAR_32 + doorbell), [1, 2, 3, doorbell as u8]);
    }
    for entry in [0x5200, 0x5a00] {
        machine.poke(BAR_32 + entry, &[0, 0, 0xe0, 0xfe]);
        assert_eq!((device(entry), machine.peek(BAR_32 + entry)), ([0; 4], [0, 0, 0xe0, 0xfe]), "{entry:#x}");
    }
    assert_eq!(machine.peek(BAR_32 + 0x5a0c), [1, 0, 0, 0], "the last entry is masked");
    machine.poke(BAR_32 + 0xd600, &[0xff; 4]);
    assert_eq!(
        (device(0xd600), machine.peek(BAR_32 + 0xd600)),
        ([0; 4], [0; 4]),
        "pending bits are read-only"
    );
}

#[test]
fn a_doorbell_on_the_tables_page_never_writes_the_table() {
    // A page with 16 entries, then doorbells, then the pending bits.
    let machine = machine(Bar::new(0, 0x1000).unwrap(), with_table(16, 0, 0xff8));
    machine.write(COMMAND, &[2, 0]);
    for doorbell in (0x100..0xff8).step_by(4) {
        machine.poke(BAR_32 + doorbell, &[0xa5; 4]);
    }
    assert_eq!(machine.host::<0xef8>(CONFIG_SIZE + 0x100), [0xa5; 0xef8]);
    assert_eq!(
        (machine.host::<0x100>(CONFIG_SIZE), machine.host::<8>(CONFIG_SIZE + 0xff8)),
        ([0; 0x100], [0; 8])
    );
    let entries = machine.peek::<0x100>(BAR_32);
    assert!(
        entries.chunks(16).all(|entry| entry == [[0; 12].as_slice(), &[1, 0, 0, 0]].concat()),
        "{entries:?}"
    );
    // One access over the border: the entry's half is the table's, the rest is the device's.
    machine.poke(BAR_32 + 0xfc, &[0, 0, 0, 0, 9, 9, 9, 9]);
    assert_eq!((machine.peek(BAR_32 + 0xfc), machine.host(CONFIG_SIZE + 0x100)), ([0; 4], [9; 4]));
    assert_eq!(machine.host(CONFIG_SIZE + 0xfc), [0; 4]);
}

#[test]
fn sizing_while_decoding_is_on_is_no_lasting_move() {
    let machine = machine(Bar::new(0, BAR_SIZE).unwrap(), Interrupts::default());
    machine.write(COMMAND, &[2, 0]);
    machine.poke(BAR_32, &[1, 2, 3, 4]);
    for ones in [0xffff_fff0_u32, 0xffff_ffff, 0xffff_fffe] {
        machine.write(0x10, &ones.to_le_bytes());
        assert_eq!(machine.read(0x10), 0xffff_e000_u32.to_le_bytes(), "{ones:#x}");
        // No window has these addresses, so nothing answers.
        assert_eq!((machine.peek(BAR_32), machine.peek(0xffff_e000)), ([0xff; 4], [0xff; 4]));
        machine.write(0x10, &(BAR_32 as u32).to_le_bytes());
        assert_eq!(machine.peek(BAR_32), [1, 2, 3, 4]);
    }
}

#[test]
fn a_64_bit_bar_is_sized_by_halves_and_answers_where_it_was_again() {
    let machine = machine(Bar::new(0xc, BAR_SIZE).unwrap(), Interrupts::default());
    machine.write(COMMAND, &[2, 0]);
    machine.poke(BAR_64, &[1, 2, 3, 4]);
    machine.write(0x10, &0xffff_fff0_u32.to_le_bytes());
    assert_eq!(machine.read(0x10), 0xffff_e00c_u32.to_le_bytes());
    // The upper half still has its address: the range is in the window, and hardware decodes it.
    assert_eq!((machine.peek(BAR_64), machine.peek(0x40_ffff_e000)), ([0xff; 4], [1, 2, 3, 4]));
    machine.write(0x14, &[0xff; 4]);
    assert_eq!((machine.read(0x14), machine.peek(0x40_ffff_e000)), ([0xff; 4], [0xff; 4]));
    machine.write(0x10, &BAR_64.to_le_bytes());
    assert_eq!(machine.peek(BAR_64), [1, 2, 3, 4]);
}

#[test]
fn a_bar_that_moves_while_decoding_is_on_leaves_nothing_at_its_old_address() {
    let machine = machine(Bar::new(0xc, BAR_SIZE).unwrap(), Interrupts::default());
    machine.write(COMMAND, &[2, 0]);
    machine.poke(BAR_64 + 0x124, &[1, 2, 3, 4]);
    let mut old = BAR_64;
    for new in [BAR_64 + 0x1000_0000, BAR_64 + BAR_SIZE, 0xd000_0000, BAR_64] {
        machine.write(0x10, &(new as u32).to_le_bytes());
        machine.write(0x14, &((new >> 32) as u32).to_le_bytes());
        assert_eq!(
            (machine.peek(old + 0x124), machine.peek(new + 0x124)),
            ([0xff; 4], [1, 2, 3, 4]),
            "{new:#x}"
        );
        machine.poke(old + 0x124, &[0; 4]);
        assert_eq!(machine.host(CONFIG_SIZE + 0x124), [1, 2, 3, 4], "a write to the old address is dropped");
        old = new;
    }
}

#[test]
fn reads_see_the_device_or_all_ones_while_another_vcpu_toggles_decoding() {
    const TOGGLES: u32 = 2000;
    let machine = machine(Bar::new(0, BAR_SIZE).unwrap(), Interrupts::default());
    machine.write(COMMAND, &[2, 0]);
    machine.poke(BAR_32 + 8, &[1, 2, 3, 4]);
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|threads| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                threads.spawn(|| {
                    let mut seen = [0u64; 3];
                    while !done.load(Ordering::Relaxed) {
                        let at = match machine.peek(BAR_32 + 8) {
                            [1, 2, 3, 4] => 0,
                            [0xff, 0xff, 0xff, 0xff] => 1,
                            _ => 2,
                        };
                        seen[at] += 1;
                    }
                    seen
                })
            })
            .collect();
        for _ in 0..TOGGLES {
            machine.write(COMMAND, &[0, 0]);
            assert_eq!(machine.peek(BAR_32 + 8), [0xff; 4], "this vCPU's own write comes first");
            machine.write(COMMAND, &[2, 0]);
            assert_eq!(machine.peek(BAR_32 + 8), [1, 2, 3, 4]);
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(seen.iter().all(|[_, _, others]| *others == 0), "{seen:?}");
    assert_eq!(machine.host(COMMAND), [2, 4], "the host decodes throughout");
}

#[test]
fn a_bar_in_d3hot_reads_all_ones_and_drops_writes_and_the_host_stays_in_d0() {
    // No_Soft_Reset: D3hot to D0 keeps the registers.
    let machine = machine(Bar::new(0, BAR_SIZE).unwrap(), with_table(16, 0, 0xff8));
    machine.write(COMMAND, &[6, 0]);
    machine.poke(BAR_32 + 0x200, &[1, 2, 3, 4]);
    machine.write(PMCSR, &D3_HOT);
    assert_eq!(machine.peek(BAR_32 + 0x200), [0xff; 4]);
    assert_eq!(machine.peek(BAR_32), [0xff; 8], "the MSI-X table, too");
    machine.poke(BAR_32 + 0x200, &[0; 4]);
    machine.poke(BAR_32, &[0; 8]);
    assert_eq!((machine.host(PMCSR), machine.host(COMMAND)), ([8, 0], [2, 4]), "decoding, and no requests");
    // Configuration space answers, and a BAR that moves meanwhile answers in D0 only.
    machine.write(0x10, &0xd000_0000_u32.to_le_bytes());
    assert_eq!((machine.read(0x10), machine.peek(0xd000_0200)), (0xd000_0000_u32.to_le_bytes(), [0xff; 4]));
    machine.write(PMCSR, &D0);
    assert_eq!((machine.peek(0xd000_0200), machine.peek(BAR_32 + 0x200)), ([1, 2, 3, 4], [0xff; 4]));
    assert_eq!(machine.host(COMMAND), [6, 4]);
    assert_eq!(machine.peek(0xd000_000c), [1, 0, 0, 0], "the entry is as before");
}

#[test]
fn a_function_that_d0_resets_decodes_nothing_until_its_bars_are_programmed() {
    let machine =
        Machine::build(&powered(0), Bar::new(0, BAR_SIZE).unwrap(), Interrupts::default(), Log::default());
    machine.write(COMMAND, &[2, 0]);
    machine.poke(BAR_32 + 8, &[1, 2, 3, 4]);
    machine.write(PMCSR, &D3_HOT);
    machine.write(PMCSR, &D0);
    assert_eq!((machine.read(0x10), machine.read(COMMAND)), ([0; 4], [0; 2]));
    assert_eq!(machine.peek(BAR_32 + 8), [0xff; 4]);
    machine.write(0x10, &(BAR_32 as u32).to_le_bytes());
    machine.write(COMMAND, &[2, 0]);
    assert_eq!(machine.peek(BAR_32 + 8), [1, 2, 3, 4], "the file that stands for the device has no reset");
}

const ROM_BAR: u64 = 0x30;
/// Where the bus has put the ROM.
const ROM: u64 = 0xc000_2000;

fn machine_with_rom(contents: &[u8]) -> Machine {
    let address = HostAddress::parse("01:00.0").unwrap();
    let device = Arc::new(File::open("/dev/null").unwrap());
    let rom = Rom::new(&RomSource::Contents(contents.to_vec()), address, &device, &[]).unwrap();
    let bar = Bar::new(0, BAR_SIZE).unwrap();
    Machine::build_with_rom(&powered(8), bar, rom, Interrupts::default(), Log::default())
}

#[test]
fn a_rom_is_read_while_both_enable_bits_are_on_and_is_never_written() {
    let mut contents = vec![0x5a; 0x1000];
    contents[..2].copy_from_slice(&[0x55, 0xaa]);
    let machine = machine_with_rom(&contents);
    assert_eq!(machine.read(ROM_BAR), (ROM as u32).to_le_bytes());
    machine.write(COMMAND, &[2, 0]);
    assert_eq!(machine.peek(ROM), [0xff; 4], "the ROM is off");
    machine.write(ROM_BAR, &(ROM as u32 | 1).to_le_bytes());
    assert_eq!(
        (machine.peek(ROM), machine.peek(ROM + 0xffe)),
        ([0x55, 0xaa, 0x5a, 0x5a], [0x5a, 0x5a, 0xff, 0xff])
    );
    machine.poke(ROM, &[0; 8]);
    assert_eq!(machine.peek(ROM), [0x55, 0xaa, 0x5a, 0x5a]);
    machine.write(PMCSR, &D3_HOT);
    assert_eq!(machine.peek(ROM), [0xff; 4]);
    machine.write(PMCSR, &D0);
    assert_eq!(machine.peek(ROM), [0x55, 0xaa, 0x5a, 0x5a]);
    machine.write(COMMAND, &[0, 0]);
    assert_eq!(machine.peek(ROM), [0xff; 4]);
    assert_eq!(machine.host(ROM_BAR), [0; 4], "the host's register is VFIO's");
}

#[test]
fn a_rom_is_sized_and_moved_like_a_bar() {
    let machine = machine_with_rom(&[0x55, 0xaa, 1]);
    machine.write(COMMAND, &[2, 0]);
    for (ones, size) in
        [(0xffff_f800_u32, 0xffff_f800_u32), (0xffff_fffe, 0xffff_f800), (0xffff_ffff, 0xffff_f801)]
    {
        machine.write(ROM_BAR, &ones.to_le_bytes());
        assert_eq!(machine.read(ROM_BAR), size.to_le_bytes(), "{ones:#x}");
    }
    machine.write(ROM_BAR, &0xd000_0801_u32.to_le_bytes());
    assert_eq!((machine.peek(0xd000_0800), machine.peek(0xd000_0804)), ([0x55, 0xaa, 1, 0xff], [0xff; 4]));
    assert_eq!(machine.peek(ROM), [0xff; 4]);
}

#[test]
fn a_function_without_a_rom_has_no_register_and_nothing_answers() {
    for empty in [machine_with_rom(&[]), machine(Bar::new(0, BAR_SIZE).unwrap(), Interrupts::default())] {
        empty.write(COMMAND, &[2, 0]);
        empty.write(ROM_BAR, &[0xff; 4]);
        assert_eq!(empty.read(ROM_BAR), [0; 4]);
        empty.write(ROM_BAR, &(ROM as u32 | 1).to_le_bytes());
        assert_eq!((empty.read(ROM_BAR), empty.peek(ROM)), ([0; 4], [0xff; 4]));
        // A bus that asks for a ROM that is not there reads ones, too.
        let mut data = [0; 4];
        empty.device.bar_read(crate::pci::ROM_INDEX, 0, &mut data);
        assert_eq!(data, [0xff; 4]);
    }
}
