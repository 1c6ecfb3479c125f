//! Messages that no local APIC accepts: hardware drops them, and so does the crate. KVM_SIGNAL_MSI answers 0 for some of them and
//! an error for others.

use std::sync::Arc;

use kvm_bindings::kvm_lapic_state;
use kvm_ioctls::{Kvm, VcpuFd};
use vm_msi::kvm::{Irqchip, KvmRouter};
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::{SoftwareMsix, Vector};

/// Offsets of a local APIC's registers.
const SPURIOUS: usize = 0xf0;
const LOGICAL_DESTINATION: usize = 0xd0;
const DESTINATION_FORMAT: usize = 0xe0;

fn set(lapic: &mut kvm_lapic_state, register: usize, value: u32) {
    for (byte, register) in value.to_le_bytes().into_iter().zip(&mut lapic.regs[register..]) {
        *register = byte as _;
    }
}

/// An APIC that software has enabled, in the flat or the cluster model.
fn enable(vcpu: &VcpuFd, index: u32) {
    let mut lapic = vcpu.get_lapic().unwrap();
    set(&mut lapic, SPURIOUS, 0x1ff);
    set(&mut lapic, LOGICAL_DESTINATION, 1 << (24 + index));
    set(&mut lapic, DESTINATION_FORMAT, if index == 0 { u32::MAX } else { 0x0fff_ffff });
    vcpu.set_lapic(&lapic).unwrap();
}

#[test]
fn a_message_that_no_apic_accepts_is_dropped_and_is_no_failure_of_the_host() {
    let vm = Arc::new(Kvm::new().unwrap().create_vm().unwrap());
    vm.create_irq_chip().unwrap();
    let vcpus: Vec<VcpuFd> = (0..2).map(|id| vm.create_vcpu(id).unwrap()).collect();
    let router = Arc::new(KvmRouter::new(vm, Irqchip::Kernel, 2));
    let bar = Bar::new(0).unwrap();
    let layout = Layout::new(TableSize::new(2).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
    let function = SoftwareMsix::software(layout, router);
    function.write_config(2, &0x8000u16.to_le_bytes());
    let to_nobody = [
        ("physical, no such APIC", 0xfee0_9000u64, 0x41u64),
        ("logical, no such APIC", 0xfeec_0004, 0x41),
        ("logical, lowest priority, no such APIC", 0xfeec_000c, 0x141),
        ("logical, destination 0", 0xfee0_0004, 0x41),
    ];
    let mut expected = 0;
    for is_enabled in [false, true] {
        if is_enabled {
            (0..).zip(&vcpus).for_each(|(index, vcpu)| enable(vcpu, index));
        }
        for (what, address, data) in to_nobody {
            function.write_table(0, &address.to_le_bytes());
            function.write_table(8, &data.to_le_bytes());
            function.trigger(Vector(0));
            expected += 1;
            let counters = function.counters();
            assert_eq!((counters.unaccepted, counters.host_failures), (expected, 0), "{what}");
            assert_eq!((function.unsettled(), function.pending(0)), (0, 0), "{what}");
        }
    }
    // An APIC that is there still gets its interrupt.
    function.write_table(0, &0xfee0_1000u64.to_le_bytes());
    function.write_table(8, &0x41u64.to_le_bytes());
    function.trigger(Vector(0));
    assert_eq!(function.counters().delivered, 1);
}
