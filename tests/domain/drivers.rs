//! Sequences of accesses that drivers, firmware and kernels make to MSI-X. Each test names the software that makes its sequence.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_msi::backend::{Backend, BackendError, Capabilities};
use vm_msi::msi::{AddressWidth, MessageCount, MsiLayout, VectorMasking};
use vm_msi::msix::{Layout, TableSize};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{MsiFunction, MsiMessage, MsixFunction, Vector};
use vmm_sys_util::eventfd::EventFd;

use crate::fixture::{ENABLE, FUNCTION_MASK, Fixture, VECTORS, bar, message};

/// Writes a vector's message and then its mask bit, DWORD by DWORD.
fn request(fixture: &Fixture, vector: u16) {
    fixture.set_message(vector, message(vector));
    fixture.set_mask(vector, 0);
}

/// Linux's `msix_capability_init`: sets Enable and Function Mask, masks each entry, and clears Function Mask.
fn enable_as_linux(fixture: &Fixture) {
    fixture.set_control(ENABLE | FUNCTION_MASK);
    (0..VECTORS).for_each(|vector| fixture.set_mask(vector, 1));
    fixture.set_control(ENABLE);
}

/// The next kernel enables MSI-X for two vectors. Returns the number of host vectors after each step.
fn kexec(fixture: &Fixture) -> [usize; 3] {
    // `pci_msix_init`, before the driver is there.
    fixture.set_control(0);
    let off = fixture.bound();
    fixture.set_control(ENABLE | FUNCTION_MASK);
    let on = fixture.bound();
    (0..VECTORS).for_each(|vector| fixture.set_mask(vector, 1));
    fixture.set_control(ENABLE);
    (0..2).for_each(|vector| request(fixture, vector));
    fixture.function.retry();
    fixture.function.bind_deferred();
    [off, on, fixture.bound()]
}

/// Linux, kexec while MSI-X is on.
#[test]
fn the_next_kernel_costs_the_host_the_vectors_that_it_uses() {
    for growing in [false, true] {
        for linger in [0, 3600] {
            let fixture = Fixture::using(0..64);
            fixture.function.set_release_delay(std::time::Duration::from_secs(linger));
            if growing {
                assert!(!fixture.is_told_to_grow());
            }
            assert_eq!(fixture.bound(), 64);
            assert_eq!(kexec(&fixture), [0, 0, 2], "off, on with nothing unmasked, two vectors");
            assert_eq!((fixture.raise(0), fixture.raise(1)), (vec![message(0)], vec![message(1)]));
            assert_eq!((fixture.raise(7), fixture.pba()), (vec![], 1 << 7), "the last kernel's vector");
            assert_eq!((fixture.router.in_use().0, fixture.function.expiring()), (2, 0));
        }
    }
}

/// Interrupts that were raised for the last kernel wait in their own Pending bits. No other vector of the next kernel gets them.
#[test]
fn what_waits_for_the_last_kernel_is_delivered_by_the_vector_that_it_was_raised_for() {
    let fixture = Fixture::using(0..4);
    fixture.set_control(ENABLE | FUNCTION_MASK);
    (0..4).for_each(|vector| drop(fixture.raise(vector)));
    kexec(&fixture);
    assert_eq!(fixture.delivered(), [message(0), message(1)]);
    assert_eq!(fixture.pba(), 0b1100);
}

/// Linux, resume and error recovery: the function is reset, and `pci_restore_msi_state` writes all registers again.
#[test]
fn a_guest_that_restores_msi_x_after_a_function_level_reset_gets_interrupts() {
    for waits in [false, true] {
        let fixture = Fixture::using([0, 1]);
        fixture.function.set_release_delay(std::time::Duration::from_secs(3600));
        if waits {
            fixture.set_mask(0, 1);
            fixture.raise(0);
        }
        fixture.reset();
        assert_eq!((fixture.bound(), fixture.control() & 0xc000, fixture.pba()), (0, 0, 0));
        fixture.set_control(ENABLE | FUNCTION_MASK);
        (0..2).for_each(|vector| request(&fixture, vector));
        assert_eq!(fixture.raise(1), []);
        fixture.set_control(ENABLE);
        assert_eq!(fixture.delivered(), [message(1)], "what was raised before the reset is forgotten");
        assert_eq!(fixture.raise(0), [message(0)]);
    }
}

/// Linux, resume of a device that was not reset: each register is written with the value that it has.
#[test]
fn a_guest_that_restores_what_is_there_already_loses_nothing_and_gets_nothing_twice() {
    let fixture = Fixture::using([0, 1]);
    for _ in 0..3 {
        fixture.set_control(ENABLE | FUNCTION_MASK);
        fixture.raise(1);
        for vector in 0..VECTORS {
            match vector {
                0 | 1 => request(&fixture, vector),
                _ => fixture.set_mask(vector, 1),
            }
        }
        assert_eq!(fixture.delivered(), []);
        fixture.set_control(ENABLE);
        assert_eq!(fixture.delivered(), [message(1)]);
        assert_eq!((fixture.raise(0), fixture.bound()), (vec![message(0)], 2));
    }
}

/// QEMU b0223e29afdc: a driver that polls enables MSI-X and uses no vector.
#[test]
fn the_hosts_enable_bit_follows_the_guests_also_where_no_vector_is_used() {
    for refused in [0, 1] {
        let failures = Failures::default();
        let device = FakeBackend::new(failures.clone());
        let layout = Layout::new(TableSize::new(4).unwrap(), (bar(0), 0), (bar(0), 0x1000)).unwrap();
        let function = MsixFunction::new(layout, Arc::new(FakeRouter::new(failures.clone())), device.clone());
        for control in [ENABLE | FUNCTION_MASK, ENABLE] {
            for (control, is_on) in [(control, true), (0, false)] {
                failures.schedule(refused);
                function.write_config(2, &control.to_le_bytes());
                assert_eq!(device.in_use().1, is_on ^ (refused != 0), "{control:#x}");
                assert_eq!(function.failed_steps(), refused as usize);
                function.retry();
                assert_eq!((device.in_use(), function.failed_steps()), ((0, is_on), 0), "{control:#x}");
            }
        }
    }
}

/// Xen: the host runs out of interrupts while a driver requests a vector for each queue.
#[test]
fn a_vector_that_the_host_has_no_room_for_waits_and_comes_later() {
    // The route, the irqfd, the host vector, and all of them.
    for calls in [0b1, 0b10, 0b100, !0] {
        for growing in [false, true] {
            let fixture = Fixture::using([0]);
            if growing {
                assert!(!fixture.is_told_to_grow());
            }
            fixture.set_message(5, message(5));
            fixture.set_mask(5, 0);
            if !growing {
                fixture.set_mask(5, 1);
                fixture.set_message(5, MsiMessage::BLANK);
                fixture.set_message(5, message(6));
                fixture.refuse(calls);
                fixture.set_mask(5, 0);
            } else {
                fixture.set_message(5, message(6));
                fixture.refuse(calls);
                fixture.function.bind_deferred();
            }
            assert_eq!(fixture.raise(5), [], "{calls:#b}");
            assert_eq!((fixture.pba(), fixture.function.failed_steps()), (1 << 5, 1), "{calls:#b}");
            assert_eq!(fixture.raise(0), [message(0)], "the others are not disturbed");
            fixture.refuse(0);
            fixture.function.retry();
            fixture.function.bind_deferred();
            assert_eq!((fixture.delivered(), fixture.pba()), (vec![message(6)], 0), "{calls:#b}");
            assert_eq!(fixture.function.failed_steps(), 0);
        }
    }
}

/// FreeBSD writes an entry while it is unmasked.
#[test]
fn an_entry_that_is_rewritten_unmasked_sends_the_message_that_it_has_after_each_write() {
    let fixture = Fixture::using([2]);
    fixture.set_register(2, 0, 0xfee0_7000);
    assert_eq!(fixture.raise(2), [MsiMessage { address: 0xfee0_7000, data: 0x41 }]);
    fixture.set_register(2, 1, 0);
    fixture.set_register(2, 2, 0x62);
    assert_eq!(fixture.raise(2), [MsiMessage { address: 0xfee0_7000, data: 0x62 }]);
}

/// illumos and Windows write an entry by QWORDs. The second QWORD has the data and the mask bit.
#[test]
fn an_entry_that_is_written_by_qwords_has_its_message_and_its_mask_bit() {
    let fixture = Fixture::using([2]);
    fixture.function.write_table(2 * 16, &0xfee0_8000u64.to_le_bytes());
    assert_eq!(fixture.raise(2), [MsiMessage { address: 0xfee0_8000, data: 0x41 }]);
    let second = |data: u64, mask: u64| {
        fixture.function.write_table(2 * 16 + 8, &(mask << 32 | data).to_le_bytes());
    };
    second(0x63, 0);
    assert_eq!(fixture.raise(2), [MsiMessage { address: 0xfee0_8000, data: 0x63 }]);
    second(0x64, 1);
    assert_eq!((fixture.raise(2), fixture.pba()), (vec![], 1 << 2));
    second(0x65, 0);
    assert_eq!(fixture.delivered(), [MsiMessage { address: 0xfee0_8000, data: 0x65 }]);
}

/// OpenBSD writes Message Control again, as a DWORD, for each vector that it establishes.
#[test]
fn enable_that_is_written_again_for_each_vector_disturbs_none() {
    let fixture = Fixture::after_reset();
    for vector in 0..3 {
        request(&fixture, vector);
        let dword = u32::from(fixture.control() | ENABLE) << 16 | 0x11;
        fixture.function.write_config(0, &dword.to_le_bytes());
        (0..=vector).for_each(|vector| assert_eq!(fixture.raise(vector), [message(vector)]));
    }
    assert_eq!(fixture.function.report().counters.opens, 1);
}

/// FreeBSD on Xen masks, moves and unmasks a vector for each change of its CPU.
#[test]
fn a_vector_that_is_moved_again_and_again_loses_nothing_and_is_never_sent_as_it_was() {
    let masked_by: [(u16, u32); 3] = [(ENABLE, 1), (ENABLE | FUNCTION_MASK, 0), (0, 0)];
    for (control, mask) in masked_by {
        let fixture = Fixture::using([4]);
        for cpu in 0..20u16 {
            fixture.set_mask(4, mask);
            fixture.set_control(control);
            let is_on = control & ENABLE != 0;
            assert_eq!(fixture.raise(4), []);
            fixture.set_message(4, message(cpu));
            fixture.set_control(ENABLE);
            fixture.set_mask(4, 0);
            let expected = if is_on { vec![message(cpu)] } else { vec![] };
            assert_eq!(fixture.delivered(), expected, "a device with MSI-X off raises no MSI-X interrupt");
            assert_eq!(fixture.raise(4), [message(cpu)]);
        }
        assert_eq!(fixture.bound(), 1);
    }
}

/// Linux c74fd80f2f41: an NVMe driver requests one vector, disables MSI-X, and requests one for each queue. Four devices at once.
#[test]
fn drivers_that_take_one_vector_first_and_then_all_get_all() {
    let fixtures: Vec<_> = (0..4).map(|_| Fixture::using([0])).collect();
    for fixture in &fixtures {
        assert_eq!(fixture.raise(0), [message(0)]);
        fixture.set_mask(0, 1);
        fixture.set_message(0, MsiMessage::BLANK);
        fixture.set_control(0);
    }
    for fixture in &fixtures {
        assert_eq!((fixture.bound(), fixture.router.in_use()), (0, (0, 0)));
        enable_as_linux(fixture);
        for vector in 0..33 {
            request(fixture, vector);
            assert_eq!(fixture.raise(vector), [message(vector)]);
        }
    }
}

/// One of two capabilities of a device. The host enables at most one of them at a time.
#[derive(Clone)]
struct OneOf {
    device: FakeBackend,
    taken: Arc<Mutex<bool>>,
    has_it: bool,
}

impl OneOf {
    fn new(capabilities: Capabilities, taken: &Arc<Mutex<bool>>) -> Self {
        let device = FakeBackend::with_capabilities(Failures::default(), capabilities);
        Self { device, taken: taken.clone(), has_it: false }
    }

    fn taken(&self) -> MutexGuard<'_, bool> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for OneOf {
    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }
    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        if std::mem::replace(&mut *self.taken(), true) {
            return Err(BackendError::Open {
                asked: vectors,
                source: std::io::ErrorKind::InvalidInput.into(),
            });
        }
        self.has_it = true;
        self.device.open(vectors)
    }
    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        self.device.bind(vector, eventfd)
    }
    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        self.device.unbind(vector)
    }
    fn close(&mut self) -> Result<(), BackendError> {
        if std::mem::take(&mut self.has_it) {
            *self.taken() = false;
        }
        self.device.close()
    }
    fn pending(&mut self, group: u32) -> u64 {
        self.device.pending(group)
    }
}

/// FreeBSD b17a444a2988: the driver of a Chelsio card is loaded with MSI-X, and then with MSI.
#[test]
fn a_driver_that_goes_from_msi_x_to_msi_and_back_gets_interrupts_of_both() {
    const OF_MSI: MsiMessage = MsiMessage { address: 0xfee0_5000, data: 0x55 };
    for off_first in [false, true] {
        let (router, taken) = (Arc::new(FakeRouter::new(Failures::default())), Arc::default());
        let of_msix = OneOf::new(Capabilities { vectors: 8, ..Capabilities::UNLIMITED }, &taken);
        let of_msi = OneOf::new(Capabilities { multi_message: true, ..Capabilities::UNLIMITED }, &taken);
        let layout = Layout::new(TableSize::new(8).unwrap(), (bar(0), 0), (bar(0), 0x1000)).unwrap();
        let msix = MsixFunction::new(layout, router.clone(), of_msix.clone());
        let layout =
            MsiLayout::new(MessageCount::new(1).unwrap(), AddressWidth::Bits64, VectorMasking::Absent);
        let msi = MsiFunction::new(layout, router.clone(), of_msi.clone());
        msi.write_config(4, &OF_MSI.address.to_le_bytes());
        msi.write_config(12, &(OF_MSI.data as u16).to_le_bytes());
        let msix_off = || msix.write_config(2, &0u16.to_le_bytes());
        let msi_off = || msi.write_config(2, &0u16.to_le_bytes());
        for _ in 0..3 {
            msix.write_config(2, &ENABLE.to_le_bytes());
            msix.write_table(0, &message(0).address.to_le_bytes());
            msix.write_table(8, &u64::from(message(0).data).to_le_bytes());
            if !off_first {
                msi_off();
                msix.retry();
            }
            of_msix.device.raise(Vector(0));
            assert_eq!(router.take_delivered(), [message(0)]);
            // The host refuses the next one while the last one is on.
            if off_first {
                msix_off();
            }
            msi.write_config(2, &1u16.to_le_bytes());
            assert_eq!(msi.failed_steps(), usize::from(!off_first));
            msix_off();
            msi.retry();
            of_msi.device.raise(Vector(0));
            assert_eq!(router.take_delivered(), [OF_MSI]);
            if off_first {
                msi_off();
            }
            assert_eq!(*of_msi.taken(), !off_first);
        }
    }
}
