//! The slots of a device model in the VMM, which triggers them without eventfds.

use std::sync::Arc;

use vm_msi::backend::Cookie;
use vm_msi::ims::ControlFormat;
use vm_msi::testing::{Failures, FakeRouter};
use vm_msi::{MsiMessage, SoftwareIms, Vector};

use crate::fixture::{MASK, PENDING, layout, message};

const SLOT: u32 = 65_535;
const PLACE: u64 = SLOT as u64 * 16;

fn model() -> (SoftwareIms, Arc<FakeRouter>) {
    let router = Arc::new(FakeRouter::new(Failures::default()));
    (SoftwareIms::try_software(layout(65_536, ControlFormat::DSA), router.clone()).unwrap(), router)
}

fn use_slot(function: &SoftwareIms) {
    let MsiMessage { address, data } = message(SLOT);
    function.write_slots(PLACE, &address.to_le_bytes());
    function.write_slots(PLACE + 8, &u64::from(data).to_le_bytes());
}

#[test]
fn a_trigger_delivers_the_slots_message_with_no_route_and_no_irqfd() {
    let (function, router) = model();
    use_slot(&function);
    function.trigger(Vector(SLOT));
    assert_eq!(router.take_delivered(), [message(SLOT)]);
    assert_eq!((router.commits(), router.in_use()), (0, (0, 0)));
}

#[test]
fn a_masked_slots_trigger_waits_and_is_delivered_once_on_unmask() {
    let (function, router) = model();
    use_slot(&function);
    function.write_slots(PLACE + 12, &(0x7008 | MASK).to_le_bytes());
    function.trigger(Vector(SLOT));
    function.trigger(Vector(SLOT));
    let mut control = [0; 4];
    function.read_slots(PLACE + 12, &mut control);
    assert_eq!(u32::from_le_bytes(control), 0x7008 | MASK | PENDING);
    function.write_slots(PLACE + 12, &0x7008u32.to_le_bytes());
    assert_eq!(router.take_delivered(), [message(SLOT)]);
    assert_eq!(function.cookie(Vector(SLOT)), Some(Cookie(7)), "the model asks for it when it triggers");
}

#[test]
fn triggers_before_the_store_is_used_and_after_a_reset_are_dropped_and_counted() {
    let (function, router) = model();
    function.trigger(Vector(SLOT));
    use_slot(&function);
    function.reset(|| {});
    function.trigger(Vector(SLOT));
    use_slot(&function);
    function.trigger(Vector(65_536));
    assert_eq!((router.take_delivered(), function.counters().dropped), (vec![], 3));
}
