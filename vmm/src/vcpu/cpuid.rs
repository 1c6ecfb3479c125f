//! The guest's CPUID: what KVM supports on this host, with the topology of this VM.
//!
//! Every vCPU is one core of one package, and its APIC ID is its index. The guest gets only features that KVM lists
//! (KVM_GET_SUPPORTED_CPUID), plus the TSC deadline timer, which KVM emulates but reports as a capability. Nested
//! virtualisation is not offered. Leaves: Intel SDM 2A CPUID; AMD APM 3 appendix E.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};
use vm_msi::apic::DestinationIds;

use crate::error::{Context, Error, Result};

/// Physical address bits of a CPU without leaf 0x8000_0008.
const DEFAULT_PHYSICAL_BITS: u8 = 36;

mod leaf {
    pub(super) const FEATURES: u32 = 1;
    pub(super) const CACHES: u32 = 4;
    pub(super) const TOPOLOGY: u32 = 0xb;
    pub(super) const TOPOLOGY_V2: u32 = 0x1f;
    /// KVM's paravirtual features.
    pub(super) const KVM_FEATURES: u32 = 0x4000_0001;
    pub(super) const EXTENDED_FEATURES: u32 = 0x8000_0001;
    pub(super) const ADDRESS_SIZES: u32 = 0x8000_0008;
    pub(super) const SVM: u32 = 0x8000_000a;
    pub(super) const AMD_CACHES: u32 = 0x8000_001d;
    pub(super) const AMD_TOPOLOGY: u32 = 0x8000_001e;
}

const FEATURES_ECX_VMX: u32 = 1 << 5;
const FEATURES_ECX_TSC_DEADLINE: u32 = 1 << 24;
const FEATURES_ECX_HYPERVISOR: u32 = 1 << 31;
const FEATURES_EDX_HTT: u32 = 1 << 28;
/// KVM_FEATURE_MSI_EXT_DEST_ID: destination IDs of messages may have 15 bits. KVM does not list it, because the VMM
/// translates.
const KVM_EAX_EXTENDED_DESTINATIONS: u32 = 1 << 15;
const EXTENDED_ECX_SVM: u32 = 1 << 2;
/// Legacy multi-core method, used with the core count of leaf 0x8000_0008.
const EXTENDED_ECX_CMP_LEGACY: u32 = 1 << 1;
const EXTENDED_ECX_TOPOLOGY: u32 = 1 << 22;
/// Level types of the topology leaves: SMT and core.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// The CPUID that this host's KVM supports.
#[derive(Debug, Clone)]
pub struct Cpuid {
    supported: Vec<kvm_cpuid_entry2>,
}

impl Cpuid {
    /// Reads the supported CPUID from KVM. `ids` are the destination IDs that the router accepts.
    ///
    /// # Errors
    /// [`Error::Host`].
    pub fn supported(kvm: &Kvm, ids: DestinationIds) -> Result<Self> {
        let context = "reading the CPUID that KVM supports";
        let mut supported =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).context(context)?.as_slice().to_vec();
        for entry in &mut supported {
            match entry.function {
                leaf::FEATURES => {
                    entry.ecx &= !FEATURES_ECX_VMX;
                    entry.ecx |= FEATURES_ECX_HYPERVISOR;
                    if kvm.check_extension(Cap::TscDeadlineTimer) {
                        entry.ecx |= FEATURES_ECX_TSC_DEADLINE;
                    }
                }
                leaf::KVM_FEATURES => entry.eax = kvm_features(entry.eax, ids),
                leaf::EXTENDED_FEATURES => entry.ecx &= !EXTENDED_ECX_SVM,
                leaf::SVM => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
                _ => {}
            }
        }
        Ok(Self { supported })
    }

    /// Number of physical address bits.
    #[must_use]
    pub fn physical_bits(&self) -> u8 {
        let entry = self.supported.iter().find(|entry| entry.function == leaf::ADDRESS_SIZES);
        entry.map_or(DEFAULT_PHYSICAL_BITS, |entry| entry.eax.to_le_bytes()[0])
    }

    /// The CPUID of the vCPU with `apic_id`, one of `cpus`.
    ///
    /// # Errors
    /// [`Error::Host`] if the list exceeds KVM's limit.
    pub fn for_vcpu(&self, apic_id: u16, cpus: u16) -> Result<CpuId> {
        let mut entries = Vec::with_capacity(self.supported.len().saturating_add(4));
        for entry in &self.supported {
            match entry.function {
                leaf::TOPOLOGY | leaf::TOPOLOGY_V2 => {
                    if entry.index == 0 {
                        entries.extend(topology(entry.function, apic_id, cpus));
                    }
                }
                _ => entries.push(with_topology(*entry, apic_id, cpus)),
            }
        }
        CpuId::from_entries(&entries).map_err(|error| Error::host("making a CPUID", format!("{error:?}")))
    }
}

fn kvm_features(eax: u32, ids: DestinationIds) -> u32 {
    match ids {
        DestinationIds::Extended => eax | KVM_EAX_EXTENDED_DESTINATIONS,
        DestinationIds::Bits8 | DestinationIds::Bits32 => eax & !KVM_EAX_EXTENDED_DESTINATIONS,
    }
}

/// Number of APIC ID bits for the cores of the package.
fn core_bits(cpus: u16) -> u32 {
    u32::from(cpus).next_power_of_two().trailing_zeros()
}

/// The levels of the extended topology leaf: one thread a core, `cpus` cores, and the end.
fn topology(function: u32, apic_id: u16, cpus: u16) -> [kvm_cpuid_entry2; 3] {
    let entry = |index, eax, ebx, level: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: level | index,
        edx: apic_id.into(),
        ..Default::default()
    };
    [entry(0, 0, 1, LEVEL_THREAD), entry(1, core_bits(cpus), cpus.into(), LEVEL_CORE), entry(2, 0, 0, 0)]
}

fn with_topology(mut entry: kvm_cpuid_entry2, apic_id: u16, cpus: u16) -> kvm_cpuid_entry2 {
    let last_core = u32::from(cpus.saturating_sub(1));
    match entry.function {
        leaf::FEATURES => {
            // Initial APIC ID, addressable IDs in the package, of 8 bits each. The topology leaf has the whole numbers.
            let (count, id) = (u32::from(cpus).min(0xff), u32::from(apic_id) & 0xff);
            entry.ebx = entry.ebx & 0xffff | count << 16 | id << 24;
            entry.edx = entry.edx & !FEATURES_EDX_HTT | if cpus > 1 { FEATURES_EDX_HTT } else { 0 };
        }
        leaf::CACHES if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level < 3 { 0 } else { last_core };
            let cores = ((1 << core_bits(cpus)) - 1).min(0x3f);
            entry.eax = entry.eax & 0x3fff | sharing << 14 | cores << 26;
        }
        leaf::EXTENDED_FEATURES => {
            entry.ecx &= !EXTENDED_ECX_CMP_LEGACY;
            if cpus > 1 && entry.ecx & EXTENDED_ECX_TOPOLOGY != 0 {
                entry.ecx |= EXTENDED_ECX_CMP_LEGACY;
            }
        }
        // Core count and size of the core ID. Intel reserves them, and KVM lists them as 0.
        leaf::ADDRESS_SIZES if entry.ecx != 0 => {
            entry.ecx = entry.ecx & !0xf0ff | last_core.min(0xff) | core_bits(cpus) << 12;
        }
        leaf::AMD_CACHES if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level < 3 { 0 } else { last_core };
            entry.eax = entry.eax & 0x3fff | sharing << 14;
        }
        leaf::AMD_TOPOLOGY => {
            // One thread a core, one node.
            (entry.eax, entry.ebx, entry.ecx) = (apic_id.into(), u32::from(apic_id) & 0xff, 0);
        }
        _ => {}
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(
        function: u32,
        index: u32,
        entry: kvm_cpuid_entry2,
        apic_id: u16,
        cpus: u16,
    ) -> kvm_cpuid_entry2 {
        let cpuid = Cpuid { supported: vec![kvm_cpuid_entry2 { function, ..entry }] };
        let guest = cpuid.for_vcpu(apic_id, cpus).unwrap();
        *guest.as_slice().iter().find(|entry| entry.function == function && entry.index == index).unwrap()
    }

    #[test]
    fn the_guest_is_told_of_extended_destinations_exactly_where_the_router_takes_them() {
        for host in [0x0100_7efb, u32::MAX] {
            assert_eq!(kvm_features(host, DestinationIds::Extended), host | 1 << 15);
            for ids in [DestinationIds::Bits8, DestinationIds::Bits32] {
                assert_eq!(kvm_features(host, ids), host & !(1 << 15));
            }
        }
    }

    #[test]
    fn every_leaf_names_the_same_apic_id() {
        let host = kvm_cpuid_entry2 { eax: 0x21, ebx: 0x0710_0800, ecx: 0x1_000f, ..Default::default() };
        for (apic_id, cpus) in [(0, 1), (1, 2), (2, 3), (63, 64), (255, 256), (299, 300)] {
            assert_eq!(guest(leaf::FEATURES, 0, host, apic_id, cpus).ebx >> 24, u32::from(apic_id) & 0xff);
            assert_eq!(guest(leaf::FEATURES, 0, host, apic_id, cpus).ebx & 0xffff, 0x0800);
            assert_eq!(guest(leaf::TOPOLOGY, 0, host, apic_id, cpus).edx, u32::from(apic_id));
            assert_eq!(guest(leaf::TOPOLOGY, 1, host, apic_id, cpus).edx, u32::from(apic_id));
            assert_eq!(guest(leaf::AMD_TOPOLOGY, 0, host, apic_id, cpus).eax, u32::from(apic_id));
        }
    }

    #[test]
    fn the_package_has_all_cores_and_no_hyperthreads() {
        let host = kvm_cpuid_entry2::default();
        for (cpus, bits) in [(1u16, 0), (2, 1), (3, 2), (4, 2), (64, 6), (256, 8), (1024, 10)] {
            let thread = guest(leaf::TOPOLOGY, 0, host, 0, cpus);
            let core = guest(leaf::TOPOLOGY, 1, host, 0, cpus);
            assert_eq!((thread.eax, thread.ebx, thread.ecx), (0, 1, 0x100));
            assert_eq!((core.eax, core.ebx, core.ecx), (bits, cpus.into(), 0x201));
            let amd = kvm_cpuid_entry2 { ecx: 0x3_7007, ..host };
            let amd = guest(leaf::ADDRESS_SIZES, 0, amd, 0, cpus).ecx;
            assert_eq!(
                (amd & 0xff, amd >> 12 & 0xf, amd & !0xf0ff),
                ((u32::from(cpus) - 1).min(0xff), bits, 0x3_0000)
            );
            let features = guest(leaf::FEATURES, 0, host, 0, cpus);
            assert_eq!(
                (features.ebx >> 16 & 0xff, features.edx >> 28 & 1),
                (u32::from(cpus).min(0xff), u32::from(cpus > 1))
            );
        }
    }

    #[test]
    fn only_the_last_level_cache_is_shared() {
        let cache = |level: u32| kvm_cpuid_entry2 { eax: 1 | level << 5, ..Default::default() };
        for leaf in [leaf::CACHES, leaf::AMD_CACHES] {
            assert_eq!(guest(leaf, 0, cache(1), 0, 4).eax >> 14 & 0xfff, 0);
            assert_eq!(guest(leaf, 0, cache(2), 0, 4).eax >> 14 & 0xfff, 0);
            assert_eq!(guest(leaf, 0, cache(3), 0, 4).eax >> 14 & 0xfff, 3);
        }
        assert_eq!(guest(leaf::CACHES, 0, cache(1), 0, 4).eax >> 26, 3);
    }
}
