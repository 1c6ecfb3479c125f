//! A producer that signals one stable eventfd a vector, as vhost-user and vdpa devices do, on KVM:
//! `cargo run --example stable_eventfds`. Needs /dev/kvm and x86-64.
//!
//! A vhost-user backend gets its call eventfds once, by VHOST_USER_SET_VRING_CALL, and keeps them while the guest masks, moves
//! and frees vectors. Other VMMs follow the guest: they send another eventfd, or put one of their own between. Here nothing is
//! sent. `StableEventfds` attaches a duplicate to KVM while the vector is live. Otherwise a signal waits in the eventfd.
//!
//! The producer is a thread that has nothing but the eventfds. No guest runs: this program makes the guest's accesses, and reads
//! the interrupt request register of the vCPU's local APIC to see what arrived. Features: `kvm`.

use std::error::Error;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use kvm_ioctls::{Kvm, VcpuFd};
use vm_msi::apic::DestinationIds;
use vm_msi::backend::{EventfdSet, StableEventfds};
use vm_msi::kvm::{Irqchip, KvmRouter};
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::{MsixFunction, Vector};

const VECTORS: u16 = 4;
/// The vector of the producer's queue.
const QUEUE: Vector = Vector(2);
const ENABLE: u16 = 1 << 15;
const MASKED: u32 = 1;

type Checked = Result<(), Box<dyn Error>>;

fn main() -> Checked {
    let vm = Arc::new(Kvm::new()?.create_vm()?);
    vm.create_irq_chip()?;
    let vcpu = vm.create_vcpu(0)?;
    let mut apic = vcpu.get_lapic()?;
    apic.regs[0xf1] |= 1; // APIC Software Enable, which is firmware's to set
    vcpu.set_lapic(&apic)?;
    let router = Arc::new(KvmRouter::new(vm.clone(), Irqchip::Kernel, 1, DestinationIds::Bits8)?);

    // The eventfds exist before the guest uses any vector. This is what goes to the other process, once.
    let eventfds = EventfdSet::new(VECTORS.into())?;
    let (ring, rings) = mpsc::channel::<mpsc::Sender<()>>();
    let producer = eventfds.clone();
    thread::spawn(move || {
        for rung in rings {
            producer.get(QUEUE).expect("the queue's vector").write(1).expect("an eventfd takes a signal");
            rung.send(()).expect("somebody waits");
        }
    });
    let signal = || -> Checked {
        let (done, rung) = mpsc::channel();
        ring.send(done)?;
        Ok(rung.recv()?)
    };

    // The hook is for producers that want to know which vectors are in use. vhost-user needs none.
    let backend = StableEventfds::new(eventfds).with_hook(|vector, binding| {
        println!("  vector {vector}: {binding:?}");
        Ok(())
    });
    let (size, bar) = TableSize::new(VECTORS).zip(Bar::new(0)).ok_or("a table in a BAR")?;
    let layout = Layout::new(size, (bar, 0), (bar, 0x800))?;
    let function = MsixFunction::try_new(layout, router, backend)?;

    println!("the producer signals before the guest uses MSI-X");
    signal()?;
    check(&function, &vcpu, "the signal is pending", (true, None))?;

    println!("the guest turns MSI-X on and unmasks the vector");
    function.write_config(2, &ENABLE.to_le_bytes());
    write_entry(&function, 0x41, 0);
    check(&function, &vcpu, "the signal is delivered", (false, Some(0x41)))?;

    println!("the guest masks the vector and moves it to another message; the producer signals twice");
    write_entry(&function, 0x42, MASKED);
    signal()?;
    signal()?;
    check(&function, &vcpu, "nothing is delivered while it is masked", (true, Some(0x41)))?;
    println!("the guest unmasks it");
    write_entry(&function, 0x42, 0);
    check(&function, &vcpu, "one interrupt arrives, on the new message", (false, Some(0x42)))?;

    println!("the guest frees the vector; the producer, which nobody told, signals");
    write_entry(&function, 0, MASKED);
    signal()?;
    check(&function, &vcpu, "the signal waits in the eventfd", (true, Some(0x42)))?;
    println!("the guest's driver loads again");
    write_entry(&function, 0x43, 0);
    check(&function, &vcpu, "and is delivered", (false, Some(0x43)))
}

/// As a Linux guest writes a table entry: mask bit first where it masks, last where it unmasks. Data 0 frees the entry.
fn write_entry(function: &MsixFunction, data: u32, control: u32) {
    let entry = u64::from(QUEUE.0) * 16;
    let address: u64 = if data == 0 { 0 } else { 0xfee0_0000 };
    function.write_table(entry + 12, &MASKED.to_le_bytes());
    function.write_table(entry, &address.to_le_bytes());
    function.write_table(entry + 8, &data.to_le_bytes());
    function.write_table(entry + 12, &control.to_le_bytes());
}

/// Fails unless the pending bit and the newest interrupt in the local APIC become these. KVM delivers what an eventfd held before it
/// was attached a little later, by a work item.
fn check(function: &MsixFunction, vcpu: &VcpuFd, what: &str, expected: (bool, Option<u8>)) -> Checked {
    for _ in 0..5000 {
        let is_pending = function.pending(0) >> QUEUE.0 & 1 == 1;
        // Register 0x200 + 16 × n has the requests of interrupt vectors 32 × n and up. Each step here has a higher vector.
        let apic = vcpu.get_lapic()?;
        let requests =
            |vector: u8| apic.regs[0x200 + usize::from(vector / 32) * 16 + usize::from(vector % 32 / 8)];
        let arrived = (0..=255u8).rev().find(|vector| requests(*vector) as u8 >> (vector % 8) & 1 == 1);
        if (is_pending, arrived) == expected {
            println!("  {what}: pending bit {is_pending}, newest interrupt {arrived:x?}");
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(format!("not seen: {what}").into())
}
