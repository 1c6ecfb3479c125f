//! An embedder's fuzz harness: random accesses to a `vm-device` bus that has an MSI-X function of this crate on it:
//! `cargo run --example fuzz_a_bus`. Needs no KVM.
//!
//! The device raises its vectors meanwhile. No access may panic. With `libfuzzer-sys`, `bytes` is the fuzzer's input in place of
//! random ones.
//!
//! Features: `bus`, `test-utils`.

use std::sync::Arc;

use vm_device::bus::{MmioAddress, MmioRange};
use vm_device::device_manager::{IoManager, MmioManager};
use vm_msi::mmio::{PbaMmio, TableMmio};
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{MsixFunction, Vector};

const TABLE: u64 = 0x1_0000;
const PBA: u64 = 0x2_0000;
const VECTORS: u16 = 64;

fn run(bytes: &[u8]) {
    let failures = Failures::default();
    let router = Arc::new(FakeRouter::new(failures.clone()));
    let device = FakeBackend::new(failures);
    let bar = Bar::new(0).expect("a BAR");
    let layout =
        Layout::new(TableSize::new(VECTORS).expect("a size"), (bar, 0), (bar, 0x1000)).expect("a layout");
    let function = Arc::new(MsixFunction::new(layout, router.clone(), device.clone()));
    let mut bus = IoManager::new();
    let range = |start, size| MmioRange::new(MmioAddress(start), size).expect("a range");
    bus.register_mmio(range(TABLE, 0x1000), Arc::new(TableMmio(Arc::clone(&function))))
        .expect("a free range");
    bus.register_mmio(range(PBA, 0x1000), Arc::new(PbaMmio(Arc::clone(&function)))).expect("a free range");
    for [kind, low, high, data @ ..] in bytes.as_chunks::<11>().0 {
        let address = MmioAddress(TABLE + u64::from(u16::from_le_bytes([*low, *high]) % 0x410));
        let width = [1, 2, 4, 8][usize::from(kind >> 6)];
        match kind & 3 {
            0 => drop(bus.mmio_read(address, &mut [0; 8][..width])),
            1 => drop(bus.mmio_write(address, &data[..width])),
            2 => function.write_config(2, &[0, *low & 0xc0]),
            _ => drop(device.raise(Vector(u32::from(u16::from(*low) % VECTORS)))),
        }
        router.pump();
    }
    function.reset(|| device.reset());
    bus.mmio_read(MmioAddress(PBA), &mut [0; 8]).expect("the pending bits");
}

fn main() {
    for seed in 0..2000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bytes: Vec<u8> = (0..11 * 200).map(|_| random.u8(..)).collect();
        run(&bytes);
    }
    println!("2000 runs of 200 accesses: no panic");
}
