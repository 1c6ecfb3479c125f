//! A VM whose vCPUs never run. The Interrupt Request Register of each local APIC keeps what the APIC takes.

use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap, kvm_lapic_state,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use vm_msi::kvm::Irqchip;

use crate::bare_metal::kvm;

/// Registers of a local APIC, by their offsets.
const LOGICAL_DESTINATION: usize = 0xd0;
const DESTINATION_FORMAT: usize = 0xe0;
const SPURIOUS: usize = 0xf0;
const REQUESTS: usize = 0x200;
const SOFTWARE_ENABLED: u32 = 0x1ff;
/// Bits 10 and 11 of IA32_APIC_BASE.
const X2APIC: u64 = 0b11 << 10;

/// The VM.
pub(crate) struct Parked {
    /// Its descriptor.
    pub(crate) vm: Arc<VmFd>,
    vcpus: Vec<VcpuFd>,
}

impl Parked {
    /// A VM with no vCPU yet.
    pub(crate) fn new(irqchip: Irqchip) -> Self {
        let vm = kvm().create_vm().unwrap();
        match irqchip {
            Irqchip::Kernel => vm.create_irq_chip().unwrap(),
            Irqchip::Split => {
                let cap = KVM_CAP_SPLIT_IRQCHIP;
                vm.enable_cap(&kvm_enable_cap { cap, args: [24, 0, 0, 0], ..Default::default() }).unwrap();
            }
        }
        Self { vm: Arc::new(vm), vcpus: Vec::new() }
    }

    /// Enables 32-bit APIC IDs without the broadcast quirk. False where this KVM cannot.
    pub(crate) fn enable_wide_ids(&self) -> bool {
        let (cap, wide) = (KVM_CAP_X2APIC_API, 0b11);
        let can = self.vm.check_extension_int(Cap::X2ApicApi) & wide == wide;
        let enable = kvm_enable_cap { cap, args: [wide as u64, 0, 0, 0], ..Default::default() };
        can && self.vm.enable_cap(&enable).is_ok()
    }

    /// Creates a vCPU and enables its local APIC, in xAPIC mode. `logical` is its bit of logical destinations and `format` the
    /// model that they follow.
    pub(crate) fn add_xapic(&mut self, id: u64, logical: u8, format: u32) {
        let vcpu = self.vm.create_vcpu(id).unwrap();
        let mut apic = vcpu.get_lapic().unwrap();
        set(&mut apic, SPURIOUS, SOFTWARE_ENABLED);
        set(&mut apic, LOGICAL_DESTINATION, u32::from(logical) << 24);
        set(&mut apic, DESTINATION_FORMAT, format);
        vcpu.set_lapic(&apic).unwrap();
        self.vcpus.push(vcpu);
    }

    /// Creates a vCPU, whose local APIC software has not enabled yet.
    pub(crate) fn add_disabled(&mut self, id: u64) {
        self.vcpus.push(self.vm.create_vcpu(id).unwrap());
    }

    /// Creates a vCPU and enables its local APIC, in x2APIC mode: its ID may be above 255.
    pub(crate) fn add_x2apic(&mut self, id: u64) {
        let vcpu = self.vm.create_vcpu(id).unwrap();
        // It says that there is an x2APIC.
        vcpu.set_cpuid2(&kvm().get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap()).unwrap();
        let mut registers = vcpu.get_sregs().unwrap();
        registers.apic_base |= X2APIC;
        vcpu.set_sregs(&registers).unwrap();
        let mut apic = vcpu.get_lapic().unwrap();
        set(&mut apic, SPURIOUS, SOFTWARE_ENABLED);
        vcpu.set_lapic(&apic).unwrap();
        self.vcpus.push(vcpu);
    }

    /// The vectors that the local APIC of a vCPU has taken, in ascending order.
    pub(crate) fn requested(&self, vcpu: usize) -> Vec<u8> {
        let apic = self.vcpus[vcpu].get_lapic().unwrap();
        let is_requested = |vector: &u8| {
            let at = REQUESTS + usize::from(vector / 32) * 16 + usize::from(vector % 32 / 8);
            apic.regs[at] as u8 >> (vector % 8) & 1 == 1
        };
        (0..=u8::MAX).filter(is_requested).collect()
    }
}

fn set(apic: &mut kvm_lapic_state, register: usize, value: u32) {
    for (byte, value) in apic.regs[register..].iter_mut().zip(value.to_le_bytes()) {
        *byte = value as _;
    }
}
