//! The IMS devices on real KVM: a guest of one CPU with interrupts disabled sets up slots, triggers them, and polls
//! its local APIC for each interrupt. A missing interrupt makes the guest wait until the test ends the run.

use std::process::Output;
use std::time::{Duration, Instant};

use super::{Run, power_off};

const LOCAL_APIC: u32 = 0xfee0_0000;
/// Addresses of the BARs of the two devices: queues and timer.
const QUEUES: [u32; 3] = [0xc000_0000, 0xc010_0000, 0xc020_0000];
const TIMER: [u32; 3] = [0xc030_0000, 0xc040_0000, 0];
/// Address of a slot in RAM.
const MEMORY: u32 = 0x20_0000;

/// An assembler for the guest's instructions.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    /// A guest with an enabled local APIC and decoding BARs.
    fn started() -> Self {
        let mut code = Self::default();
        code.store(LOCAL_APIC + 0xf0, 0x1ff);
        for (device, bars) in [(1, QUEUES), (2, TIMER)] {
            for (bar, address) in (0..).zip(bars) {
                code.config(device, 0x10 + 8 * bar, address);
                code.config(device, 0x14 + 8 * bar, 0);
            }
            code.config(device, 4, 6);
        }
        code
    }

    /// `mov ebx, address; mov dword [rbx], value`
    fn store(&mut self, address: u32, value: u32) {
        self.0.push(0xbb);
        self.0.extend(address.to_le_bytes());
        self.0.extend([0xc7, 0x03]);
        self.0.extend(value.to_le_bytes());
    }

    /// `mov dx, port; mov eax, value; out dx, eax`
    fn out(&mut self, port: u16, value: u32) {
        self.0.extend([0x66, 0xba]);
        self.0.extend(port.to_le_bytes());
        self.0.push(0xb8);
        self.0.extend(value.to_le_bytes());
        self.0.push(0xef);
    }

    /// Writes a DWORD of the configuration space of a device of bus 0.
    fn config(&mut self, device: u32, offset: u32, value: u32) {
        self.out(0xcf8, 1 << 31 | device << 11 | offset);
        self.out(0xcfc, value);
    }

    /// `mov ebx, address; mov eax, [rbx]; and eax, mask; cmp eax, value; jne` back to the read.
    fn wait(&mut self, address: u32, mask: u32, value: u32) {
        self.0.push(0xbb);
        self.0.extend(address.to_le_bytes());
        self.0.extend([0x8b, 0x03, 0x25]);
        self.0.extend(mask.to_le_bytes());
        self.0.push(0x3d);
        self.0.extend(value.to_le_bytes());
        self.0.extend([0x75, 0xf2]);
    }

    /// Waits until this vector is in the local APIC's IRR.
    fn wait_for(&mut self, vector: u32) {
        let bit = 1 << (vector % 32);
        self.wait(LOCAL_APIC + 0x200 + 0x10 * (vector / 32), bit, bit);
    }

    /// Writes a slot, in a BAR or in memory, that signals this vector.
    fn set_up(&mut self, at: u32, vector: u32) {
        for (offset, value) in [(0, LOCAL_APIC), (4, 0), (8, vector), (12, 0)] {
            self.store(at + offset, value);
        }
    }
}

/// Runs the guest until it powers off, and returns its report.
fn report(name: &str, mut code: Code, devices: &[&str]) -> serde_json::Value {
    code.0.extend(power_off());
    let path = std::env::temp_dir().join(format!("vmm-run-{}-{name}-report", std::process::id()));
    let mut arguments = vec!["--report", path.to_str().unwrap()];
    devices.iter().for_each(|device| arguments.extend(["--device", device]));
    let run = Run::new(name, &code.0);
    let mut child = run.command(&arguments).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("an interrupt did not come");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let report = serde_json::from_str(&text).unwrap();
    guest::report::check(&report).unwrap();
    report
}

#[test]
fn slots_in_a_bar_and_in_memory_msi_x_beside_and_a_timer_without_it_all_signal() {
    let mut code = Code::started();
    let [registers, slots, msix] = QUEUES;
    // MSI-X on, its vectors unmasked.
    code.config(1, 0x7c, 0x8000_0000);
    code.set_up(msix, 0x40);
    code.set_up(msix + 16, 0x46);
    for (slot, vector) in [(0, 0x41), (40_000, 0x42), (65_535, 0x43)] {
        code.set_up(slots + 16 * slot, vector);
        code.store(registers + 0x20, slot);
        code.wait_for(vector);
    }
    // A slot in memory, then another message in it. MSI-X reports completed commands.
    code.set_up(MEMORY, 0x45);
    code.store(registers + 0x48, MEMORY);
    code.store(registers + 0x50, 1);
    code.wait_for(0x46);
    code.store(registers + 0x54, 1);
    code.store(registers + 0x20, 65_537);
    code.wait_for(0x45);
    code.set_up(MEMORY, 0x47);
    code.store(registers + 0x54, 1);
    code.store(registers + 0x20, 65_537);
    code.wait_for(0x47);
    // A queue that does not exist.
    code.store(registers + 0x20, 65_538);
    code.wait_for(0x40);
    let [registers, slots, _] = TIMER;
    code.set_up(slots + 16 * 5, 0x44);
    code.store(registers + 0x80, 1_000_000);
    code.store(registers + 0x88, 5);
    code.wait_for(0x44);
    code.wait(registers + 0x90, u32::MAX, 0);

    let report = report("ims", code, &["ims-queues,slots=65536,memory-slots=2", "ims-timer"]);
    let [queues, timer] = [&report["devices"][0], &report["devices"][1]];
    assert_eq!((&queues["ims"], &timer["ims"]), (&"queues".into(), &"timer".into()));
    let counters = |device: &serde_json::Value| {
        ["triggers", "dropped_triggers", "refused_writes"].map(|name| device[name].as_u64().unwrap())
    };
    assert_eq!((counters(queues), counters(timer)), ([5, 0, 1], [1, 0, 0]));
    let in_use = queues["slots"]["in_use"].as_array().unwrap();
    let in_use: Vec<_> = in_use.iter().map(|slot| slot["vector"].as_u64().unwrap()).collect();
    assert_eq!(in_use, [0, 40_000, 65_535]);
    let delivered = |store: &serde_json::Value| store["counters"]["delivered"].as_u64().unwrap();
    let stores = [&queues["slots"], &queues["memory_slots"], &queues["software_msix"], &timer["slots"]];
    assert_eq!(stores.map(delivered), [3, 2, 4, 1]);
}

#[test]
fn a_guests_mistakes_have_their_results_and_are_counted() {
    let mut code = Code::started();
    let [registers, slots, _] = QUEUES;
    let [ring, address, place, doorbell, result] = [0x20, 0x48, 0x50, 0x54, 0x58].map(|at| registers + at);
    // An invalid slot; no address; misaligned; an own BAR; beyond RAM.
    code.store(ring, 4);
    code.store(place, 2);
    code.wait(result, u32::MAX, 1);
    code.store(doorbell, 0);
    code.wait(result, u32::MAX, 4);
    code.store(address, MEMORY + 8);
    code.store(place, 0);
    code.wait(result, u32::MAX, 3);
    for at in [slots, 0xbfff_fff0] {
        code.store(address, at);
        code.store(place, 0);
        code.wait(result, u32::MAX, 0);
        code.store(doorbell, 0);
        code.wait(result, u32::MAX, 2);
    }
    code.wait(registers + 0x38, u32::MAX, 6);
    // The valid sequence.
    code.set_up(MEMORY, 0x61);
    code.store(address, MEMORY);
    code.store(place, 0);
    code.store(doorbell, 0);
    code.store(ring, 2);
    code.wait_for(0x61);
    report("ims-mistakes", code, &["ims-queues,slots=2", "ims-timer"]);
}

#[test]
fn a_masked_slot_signals_when_it_is_unmasked() {
    let mut code = Code::started();
    let [registers, slots, _] = QUEUES;
    code.set_up(slots, 0x51);
    code.store(slots + 12, 1);
    code.store(registers + 0x20, 0);
    code.wait(slots + 12, u32::MAX, 3);
    code.store(slots + 12, 0);
    code.wait_for(0x51);
    code.wait(slots + 12, u32::MAX, 0);
    report("ims-mask", code, &["ims-queues,slots=1", "ims-timer"]);
}
