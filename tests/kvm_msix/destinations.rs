//! Destinations of more than 8 bits. An interrupt is delivered to the vCPU that the message names, or refused. No other vCPU gets it.

use std::sync::Arc;

use kvm_ioctls::Cap;
use vm_msi::apic::{DestinationIds, InvalidMessage};
use vm_msi::kvm::{KvmRouter, MissingCapability};
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::refusal::Refusal;
use vm_msi::router::Signalled;
use vm_msi::{MsiMessage, MsixFunction, Router, Target, Vector};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bare_metal::{Device, DeviceBackend, ENABLE, IRQCHIPS, kvm};
use crate::parked::Parked;

/// A message as a guest writes it that knows of extended destination IDs.
fn extended(id: u32, data: u32) -> MsiMessage {
    MsiMessage { address: u64::from(0xfee0_0000 | (id & 0xff) << 12 | id >> 8 << 5), data }
}

#[test]
fn a_destination_that_the_guest_was_not_told_of_reaches_no_vcpu_and_is_counted() {
    for irqchip in IRQCHIPS {
        let mut parked = Parked::new(irqchip);
        parked.add_xapic(0, 1, 0xffff_ffff);
        let router = KvmRouter::new(parked.vm.clone(), irqchip, 1, DestinationIds::Bits8).unwrap();
        let bar = Bar::new(0).unwrap();
        let layout = Layout::new(TableSize::new(2).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
        let device = Device::new(2);
        let msix = MsixFunction::new(layout, Arc::new(router), DeviceBackend(device.clone()));
        msix.write_config(2, &ENABLE.to_le_bytes());
        for (vector, message) in [(0, extended(0x100, 0x41)), (1, extended(0, 0x42))] {
            msix.write_table(vector * 16, &message.address.to_le_bytes());
            msix.write_table(vector * 16 + 8, &message.data.to_le_bytes());
            msix.write_table(vector * 16 + 12, &0u32.to_le_bytes());
        }
        (0..2).for_each(|vector| device.raise(vector));
        assert_eq!(parked.requested(0), [0x42], "KVM itself would ignore bits 11:5");
        let counters = msix.report().counters;
        assert_eq!((counters.invalid_messages, counters.host_failures), (1, 0));

        // The interrupt waits for a message that this guest may write.
        let told = extended(0, 0x43);
        msix.write_table(8, &told.data.to_le_bytes());
        assert_eq!(parked.requested(0), [0x42]);
        msix.write_table(0, &told.address.to_le_bytes());
        assert_eq!(parked.requested(0), [0x42, 0x43]);
        assert_eq!(msix.report().vectors.iter().filter(|row| row.vector == Vector(0)).count(), 1);
    }
}

#[test]
fn an_extended_destination_reaches_the_vcpu_that_is_meant() {
    let most = kvm().check_extension_int(Cap::MaxVcpuId);
    if most <= 0x100 {
        println!("skipped: this KVM has no vCPU IDs above 255 (KVM_CAP_MAX_VCPU_ID = {most})");
        return;
    }
    for irqchip in IRQCHIPS {
        let mut parked = Parked::new(irqchip);
        if !parked.enable_wide_ids() {
            println!("skipped: this KVM takes no 32-bit APIC IDs (KVM_CAP_X2APIC_API)");
            return;
        }
        let ids = [0, 0xff, 0x100, 0x1ff].map(|id: u32| id.min(most as u32 - 1));
        ids.iter().for_each(|id| parked.add_x2apic(u64::from(*id)));
        let router = KvmRouter::new(parked.vm.clone(), irqchip, 512, DestinationIds::Extended).unwrap();
        assert!(parked.requested(0).is_empty(), "the router has asked KVM without an interrupt");
        let interrupt = |message| match router.translate(message) {
            Ok(Target::Interrupt(interrupt)) => interrupt,
            other => panic!("{other:?}"),
        };
        for (vcpu, id) in ids.into_iter().enumerate() {
            // By userspace.
            assert_eq!(
                router.signal(interrupt(extended(id, 0x41))).unwrap(),
                Signalled::Delivered,
                "{id:#x}"
            );
            assert_eq!(parked.requested(vcpu), [0x41], "{id:#x}");
            // By an irqfd.
            let mut routes = Vec::new();
            router.get_or_publish(&[interrupt(extended(id, 0x42))], &mut routes);
            let route = routes.pop().unwrap().unwrap();
            let eventfd = EventFd::new(EFD_NONBLOCK).unwrap();
            router.attach(&eventfd, &route).unwrap();
            eventfd.write(1).unwrap();
            router.detach(&eventfd, &route).unwrap();
            router.put(route);
            assert_eq!(parked.requested(vcpu), [0x41, 0x42], "{id:#x}");
        }
        for vcpu in 0..ids.len() {
            assert_eq!(parked.requested(vcpu), [0x41, 0x42], "each message has one destination");
        }
        let nobody = router.signal(interrupt(extended(0x123, 0x43))).unwrap();
        assert_eq!(nobody, Signalled::NotAccepted);

        // As a remapping stage writes it; and what would make KVM refuse the whole table.
        let wide = MsiMessage { address: 0x100_fee0_0000, data: 0x44 };
        assert_eq!(router.signal(interrupt(wide)).unwrap(), Signalled::Delivered);
        assert_eq!(parked.requested(2), [0x41, 0x42, 0x44]);
        let memory = MsiMessage { address: 0x101_fee0_0000, data: 0x44 };
        assert_eq!(router.translate(memory), Ok(Target::Memory(memory)));
    }
}

#[test]
fn destinations_that_this_vm_ignores_are_refused_when_the_router_is_made() {
    for irqchip in IRQCHIPS {
        let mut parked = Parked::new(irqchip);
        parked.add_xapic(0, 1, 0xffff_ffff);
        let made =
            |ids| KvmRouter::new(parked.vm.clone(), irqchip, 1, ids).map(|router| router.destination_ids());
        for ids in [DestinationIds::Extended, DestinationIds::Bits32] {
            assert_eq!(made(ids), Err(MissingCapability::X2apicApi));
        }
        assert_eq!(made(DestinationIds::Bits8), Ok(DestinationIds::Bits8));
        assert!(parked.requested(0).is_empty());
        if parked.enable_wide_ids() {
            for ids in [DestinationIds::Extended, DestinationIds::Bits32] {
                assert_eq!(made(ids), Ok(ids));
            }
        }
        let router = KvmRouter::new(parked.vm.clone(), irqchip, 1, DestinationIds::Bits8).unwrap();
        let wide = MsiMessage { address: 0x100_fee0_0000, data: 0x41 };
        let refused = Err(Refusal::Invalid(InvalidMessage::Destination(wide)));
        assert_eq!(router.translate(wide), refused);
    }
}
