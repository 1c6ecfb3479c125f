//! Messages that no local APIC accepts. They are dropped, as hardware drops them, and are no failure of the host.

use std::sync::Arc;

use vm_msi::apic::DestinationIds;
use vm_msi::domain::State;
use vm_msi::kvm::KvmRouter;
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::router::Signalled;
use vm_msi::{Interrupt, MsixFunction, Router, SoftwareMsix, Vector};

use crate::bare_metal::{Device, DeviceBackend, ENABLE, IRQCHIPS, fixed};
use crate::parked::Parked;

const FLAT: u32 = 0xffff_ffff;
const CLUSTER: u32 = 0x0fff_ffff;
const VECTOR: Vector = Vector(0);

/// Address and data of messages, where APICs 0 and 1 exist, with logical bits 0 and 1.
const TO_NOBODY: [(&str, u64, u32); 7] = [
    ("physical", 0xfee0_9000, 0x41),
    ("physical, lowest priority", 0xfee0_9008, 0x141),
    ("physical, NMI", 0xfee0_9000, 0x400),
    ("logical", 0xfeec_0004, 0x41),
    ("logical, lowest priority", 0xfeec_000c, 0x141),
    ("logical, destination 0", 0xfee0_0004, 0x41),
    ("logical, lowest priority, destination 0", 0xfee0_000c, 0x141),
];

#[test]
fn a_message_to_no_apic_is_dropped_and_is_no_failure_of_the_host() {
    for irqchip in IRQCHIPS {
        // The kernel looks destinations up by another way where APICs differ in their model.
        for formats in [[FLAT, FLAT], [FLAT, CLUSTER]] {
            let mut parked = Parked::new(irqchip);
            (0..2u8).zip(formats).for_each(|(id, format)| parked.add_xapic(id.into(), 1 << id, format));
            let router =
                Arc::new(KvmRouter::new(parked.vm.clone(), irqchip, 2, DestinationIds::Bits8).unwrap());
            let bar = Bar::new(0).unwrap();
            let layout = Layout::new(TableSize::new(1).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
            let msix = SoftwareMsix::software(layout, router);
            let write = |address: u64, data: u32| {
                msix.write_table(0, &address.to_le_bytes());
                msix.write_table(8, &data.to_le_bytes());
            };
            msix.write_config(2, &ENABLE.to_le_bytes());
            msix.write_table(12, &0u32.to_le_bytes());
            for (count, (what, address, data)) in (1..).zip(TO_NOBODY) {
                write(address, data);
                msix.trigger(VECTOR);
                let counters = msix.counters();
                assert_eq!(
                    (counters.unaccepted, counters.delivered),
                    (count, 0),
                    "{irqchip:?} {formats:x?} {what}"
                );
                assert_eq!((counters.host_failures, counters.latched, msix.pending(0)), (0, 0, 0), "{what}");
            }
            write(0xfee0_1000, 0x42);
            assert_eq!(msix.counters().delivered, 0, "a dropped message does not come back");
            msix.trigger(VECTOR);
            assert_eq!(msix.counters().delivered, 1);
            assert_eq!((parked.requested(0), parked.requested(1)), (vec![], vec![0x42]));
        }
    }
}

#[test]
fn a_message_to_an_apic_that_software_has_not_enabled_is_dropped() {
    for irqchip in IRQCHIPS {
        let mut parked = Parked::new(irqchip);
        parked.add_disabled(0);
        let router = KvmRouter::new(parked.vm.clone(), irqchip, 1, DestinationIds::Bits8).unwrap();
        for message in [fixed(0, 0x41), fixed(9, 0x41)] {
            assert_eq!(router.signal(Interrupt::new(message)).unwrap(), Signalled::NotAccepted, "{message}");
        }
        assert!(parked.requested(0).is_empty());
    }
}

#[test]
fn a_message_to_no_apic_is_dropped_also_where_userspace_delivers_because_routes_are_full() {
    for irqchip in IRQCHIPS {
        let mut parked = Parked::new(irqchip);
        (0..2u8).zip([FLAT, CLUSTER]).for_each(|(id, format)| parked.add_xapic(id.into(), 1 << id, format));
        let router = Arc::new(KvmRouter::new(parked.vm.clone(), irqchip, 2, DestinationIds::Bits8).unwrap());
        let others = (100..).flat_map(|id| (0x20..=0xef).map(move |vector| fixed(id, vector)));
        let others: Vec<_> = others.map(Interrupt::new).take(router.counters().capacity).collect();
        let mut routes = Vec::new();
        router.get_or_publish(&others, &mut routes);
        assert!(routes.iter().all(Result::is_ok), "every route is in use");

        let bar = Bar::new(0).unwrap();
        let layout = Layout::new(TableSize::new(1).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
        let device = Device::new(1);
        let msix = MsixFunction::new(layout, router, DeviceBackend(device.clone()));
        let _relay = msix.relay_fd().unwrap();
        msix.write_config(2, &ENABLE.to_le_bytes());
        let request = |address: u64, data: u32| {
            msix.write_table(12, &1u32.to_le_bytes());
            msix.write_table(0, &address.to_le_bytes());
            msix.write_table(8, &data.to_le_bytes());
            msix.write_table(12, &0u32.to_le_bytes());
            assert_eq!(msix.report().vectors[0].state, State::Relayed);
            device.raise(0);
            msix.deliver_relayed();
        };
        let failures = || msix.report().counters.host_failures;
        for (count, (what, address, data)) in (1..).zip(TO_NOBODY) {
            request(address, data);
            let (counters, before) = (msix.report().counters, failures());
            assert_eq!((counters.unaccepted, counters.relayed), (count, 0), "{irqchip:?} {what}");
            msix.deliver_relayed();
            assert_eq!((msix.report().counters.unaccepted, failures()), (count, before), "{what}: not again");
        }
        request(0xfee0_1000, 0x42);
        assert_eq!(msix.report().counters.relayed, 1);
        assert_eq!((parked.requested(0), parked.requested(1)), (vec![], vec![0x42]));
    }
}
