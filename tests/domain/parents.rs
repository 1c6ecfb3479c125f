//! A function has only the features that all its parents have: its device, the stages before the router, and the router.

use std::sync::Arc;

use vm_msi::backend::{Capabilities, Growth, Unsupported};
use vm_msi::ims::{ControlFormat, PageSizes, QueueLayout, SiovDvsec, SlotArrayLayout, SlotCount};
use vm_msi::msi::{AddressWidth, MessageCount, MsiLayout, VectorMasking};
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::remap::{Identity, Remapped};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{
    ImsFunction, MsiFunction, MsixFunction, QueueFunction, RequesterId, Router, SoftwareIms, SoftwareMsix,
    SoftwareQueue,
};

const ALL: Capabilities = Capabilities::UNLIMITED;

/// A router behind two stages with these capabilities.
fn chain(first: Capabilities, second: Capabilities) -> Arc<dyn Router> {
    let requester = RequesterId(0x0008);
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let outer = Arc::new(Remapped::new(router, Arc::new(Identity::allowing(second)), requester));
    Arc::new(Remapped::new(outer, Arc::new(Identity::allowing(first)), requester))
}

fn device(capabilities: Capabilities) -> FakeBackend {
    FakeBackend::with_capabilities(Failures::default(), capabilities)
}

fn layout(vectors: u16) -> Layout {
    let bar = Bar::new(0).unwrap();
    Layout::new(TableSize::new(vectors).unwrap(), (bar, 0), (bar, 0x8000)).unwrap()
}

fn msix(vectors: u16, router: Arc<dyn Router>, device: FakeBackend) -> Option<Unsupported> {
    MsixFunction::try_new(layout(vectors), router, device).err()
}

fn msi(messages: u32, router: Arc<dyn Router>, device: FakeBackend) -> Option<Unsupported> {
    let messages = MessageCount::new(messages).unwrap();
    let layout = MsiLayout::new(messages, AddressWidth::Bits64, VectorMasking::Present);
    MsiFunction::try_new(layout, router, device).err()
}

#[test]
fn a_function_has_no_more_vectors_than_its_shortest_parent() {
    let few = Capabilities { vectors: 64, ..ALL };
    for (first, second, own) in [(few, ALL, ALL), (ALL, few, ALL), (ALL, ALL, few)] {
        assert_eq!(msix(64, chain(first, second), device(own)), None);
        let refused = Some(Unsupported::Vectors { needed: 65, vectors: 64 });
        assert_eq!(msix(65, chain(first, second), device(own)), refused);
    }
    assert_eq!(msix(2048, chain(ALL, ALL), device(ALL)), None);
}

#[test]
fn several_messages_of_msi_need_a_chain_that_carries_blocks() {
    let single = Capabilities { multi_message: false, ..ALL };
    for (first, second, own) in [(single, ALL, ALL), (ALL, single, ALL), (ALL, ALL, single)] {
        assert_eq!(msi(2, chain(first, second), device(own)), Some(Unsupported::MultiMessage));
        assert_eq!(msi(1, chain(first, second), device(own)), None);
        assert_eq!(msix(32, chain(first, second), device(own)), None);
    }
}

#[test]
fn an_embedder_may_deny_a_function_msi_x_and_leave_it_msi() {
    let policy = Capabilities { independent: false, ..ALL };
    assert_eq!(msix(1, chain(policy, ALL), device(ALL)), Some(Unsupported::Independent));
    assert_eq!(msi(32, chain(policy, ALL), device(ALL)), None);
    let software = SoftwareMsix::try_software(layout(1), chain(policy, ALL));
    assert_eq!(software.err(), Some(Unsupported::Independent));
}

#[test]
fn a_parent_that_carries_no_ims_leaves_a_function_its_msi_x_and_shows_the_guest_neither_store_nor_discovery()
{
    let none = Capabilities { ims: false, ..ALL };
    let slots = SlotCount::new(8).unwrap();
    let array = SlotArrayLayout { slots, control: ControlFormat::DSA };
    let queue = QueueLayout { slots, control: ControlFormat::DSA };
    let refused = Some(Unsupported::Ims);
    for (first, second, own) in [(none, ALL, ALL), (ALL, none, ALL), (ALL, ALL, none)] {
        let chain = chain(first, second);
        assert_eq!(ImsFunction::try_new(array, chain.clone(), device(own)).err(), refused);
        assert_eq!(QueueFunction::try_new(queue, chain.clone(), device(own)).err(), refused);
        let parents = chain.capabilities().intersection(own);
        assert_eq!(SiovDvsec::try_new(parents, PageSizes::SIZE_4K).err(), refused);
        assert_eq!(msix(8, chain, device(own)), None);
    }
    assert_eq!(SoftwareIms::try_software(array, chain(none, ALL)).err(), refused);
    assert_eq!(SoftwareQueue::try_software(queue, chain(ALL, none)).err(), refused);
    assert_eq!(QueueFunction::try_new(queue, chain(ALL, ALL), device(ALL)).err(), None);
    assert!(SiovDvsec::try_new(chain(ALL, ALL).capabilities(), PageSizes::SIZE_4K).is_ok());
}

#[test]
fn a_host_that_gives_vectors_only_when_interrupts_are_turned_on_is_refused_before_a_guest_sees_it() {
    let fixed = device(Capabilities { growth: Growth::Fixed, ..ALL });
    let refused = msix(8, chain(ALL, ALL), fixed).unwrap();
    assert_eq!(refused.to_string(), "vectors cannot be bound after interrupts are enabled");
    assert_eq!(msix(8, chain(ALL, ALL), device(Capabilities { growth: Growth::Reserved, ..ALL })), None);
}
