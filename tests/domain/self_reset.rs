//! Devices that reset themselves without the host's knowledge, and drivers that write again the registers that the device has lost.
//! Linux commit b8f02af096b1 ("scsi: ipr") has a driver that does so for MSI-X. tg3 sets MSI Enable again after a chip reset.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use vm_msi::backend::{BackendError, Capabilities, EventfdOwner, Growth, Programming};
use vm_msi::msi::{AddressWidth, MessageCount, MsiLayout, VectorMasking};
use vm_msi::msix::{Layout, TableSize};
use vm_msi::testing::{Failures, FakeRouter};
use vm_msi::{Backend, MsiFunction, MsiMessage, MsixFunction, Vector};
use vmm_sys_util::eventfd::EventFd;

use crate::fixture::{ENABLE, FUNCTION_MASK, bar, message};

/// Whether the backend can tell what the device has lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sight {
    #[default]
    Blind,
    Sees,
}

/// A device whose registers lose the host's values when it resets itself. The host's kernel writes a table entry again when it requests
/// the vector again (Linux b8f02af096b1), and the enable bit when it enables the capability.
#[derive(Clone, Default)]
struct SelfResetting(Arc<Mutex<State>>, Sight);

#[derive(Default)]
struct State {
    window: u32,
    bound: BTreeMap<Vector, EventFd>,
    programmed: BTreeSet<Vector>,
    enabled: bool,
    pending: BTreeSet<Vector>,
    requests: usize,
}

impl SelfResetting {
    fn that(sight: Sight) -> Self {
        Self(Arc::default(), sight)
    }
    fn reset_itself(&self) {
        let state = &mut *self.0.lock().unwrap();
        state.programmed.clear();
        state.pending.clear();
    }
    fn lose_enable(&self) {
        self.0.lock().unwrap().enabled = false;
    }
    fn raise(&self, vector: Vector) {
        let state = &mut *self.0.lock().unwrap();
        if !state.enabled {
            return;
        }
        match state.bound.get(&vector).filter(|_| state.programmed.contains(&vector)) {
            Some(eventfd) => eventfd.write(1).unwrap(),
            None => drop(state.pending.insert(vector)),
        }
    }
}

impl Backend for SelfResetting {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            vectors: 2048,
            growth: Growth::Dynamic,
            independent: true,
            multi_message: true,
            ims: false,
            cookies: false,
        }
    }
    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        let state = &mut *self.0.lock().unwrap();
        (state.window, state.enabled) = (vectors, true);
        Ok(())
    }
    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        let state = &mut *self.0.lock().unwrap();
        state.bound.insert(vector, eventfd.try_clone().unwrap());
        state.programmed.insert(vector);
        state.requests += 1;
        if state.pending.remove(&vector) {
            eventfd.write(1).unwrap();
        }
        Ok(())
    }
    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        self.0.lock().unwrap().bound.remove(&vector);
        Ok(())
    }
    fn close(&mut self) -> Result<(), BackendError> {
        let state = &mut *self.0.lock().unwrap();
        (state.window, state.enabled) = (0, false);
        state.bound.clear();
        state.programmed.clear();
        Ok(())
    }
    fn eventfd_owner_after_close(&self) -> EventfdOwner {
        EventfdOwner::Domain
    }
    fn vector_programming(&mut self, vector: Vector) -> Programming {
        match self.1 {
            Sight::Blind => Programming::Unknown,
            Sight::Sees if self.0.lock().unwrap().programmed.contains(&vector) => Programming::Kept,
            Sight::Sees => Programming::Lost,
        }
    }
    fn enable_programming(&mut self) -> Programming {
        match self.1 {
            Sight::Blind => Programming::Unknown,
            Sight::Sees if self.0.lock().unwrap().enabled => Programming::Kept,
            Sight::Sees => Programming::Lost,
        }
    }
    fn pending(&mut self, group: u32) -> u64 {
        let state = self.0.lock().unwrap();
        state.pending.iter().filter(|v| v.0 / 64 == group).fold(0, |bits, v| bits | 1 << (v.0 % 64))
    }
}

fn msix(device: &SelfResetting) -> (MsixFunction, Arc<FakeRouter>) {
    let layout = Layout::new(TableSize::new(8).unwrap(), (bar(0), 0), (bar(0), 0x1000)).unwrap();
    let router = Arc::new(FakeRouter::new(Failures::default()));
    (MsixFunction::new(layout, router.clone(), device.clone()), router)
}

/// MSI-X is on. Vector 1 has a message and is unmasked.
fn live(device: &SelfResetting) -> (MsixFunction, Arc<FakeRouter>) {
    let (function, router) = msix(device);
    function.write_config(2, &ENABLE.to_le_bytes());
    entry(&function, 1, message(1), 0);
    (function, router)
}

/// Masks all vectors, writes vector 1 again and clears Function Mask, as `pci_restore_state` does.
fn restore(function: &MsixFunction) {
    function.write_config(2, &(ENABLE | FUNCTION_MASK).to_le_bytes());
    entry(function, 1, message(1), 0);
    function.write_config(2, &ENABLE.to_le_bytes());
}

fn msi(device: &SelfResetting) -> (MsiFunction, Arc<FakeRouter>) {
    let layout = MsiLayout::new(MessageCount::new(1).unwrap(), AddressWidth::Bits64, VectorMasking::Absent);
    let router = Arc::new(FakeRouter::new(Failures::default()));
    (MsiFunction::new(layout, router.clone(), device.clone()), router)
}

fn set_msi_message(function: &MsiFunction) {
    function.write_config(4, &0xfee0_1000u32.to_le_bytes());
    function.write_config(8, &0u32.to_le_bytes());
    function.write_config(12, &0x41u16.to_le_bytes());
}

fn entry(function: &MsixFunction, vector: u64, message: MsiMessage, control: u32) {
    function.write_table(vector * 16, &message.address_low().to_le_bytes());
    function.write_table(vector * 16 + 4, &message.address_high().to_le_bytes());
    function.write_table(vector * 16 + 8, &message.data.to_le_bytes());
    function.write_table(vector * 16 + 12, &control.to_le_bytes());
}

#[test]
fn a_driver_that_restores_msi_x_after_the_devices_own_reset_gets_interrupts() {
    for device in [Sight::Blind, Sight::Sees].map(SelfResetting::that) {
        let (function, router) = live(&device);
        device.raise(Vector(1));
        assert_eq!(router.take_delivered(), [message(1)]);
        device.reset_itself();
        restore(&function);
        device.raise(Vector(1));
        let mut pba = [0; 8];
        function.read_pba(0, &mut pba);
        let requests = device.0.lock().unwrap().requests;
        assert_eq!(
            router.take_delivered(),
            [message(1)],
            "pba {:#x}, host requests {requests}",
            u64::from_le_bytes(pba)
        );
    }
}

#[test]
fn a_driver_that_frees_and_requests_around_the_devices_own_reset_gets_interrupts() {
    for device in [Sight::Blind, Sight::Sees].map(SelfResetting::that) {
        let (function, router) = live(&device);
        function.write_table(16 + 12, &1u32.to_le_bytes());
        entry(&function, 1, MsiMessage { address: 0, data: 0 }, 1);
        device.reset_itself();
        entry(&function, 1, message(1), 0);
        device.raise(Vector(1));
        assert_eq!(router.take_delivered(), [message(1)]);
    }
}

#[test]
fn a_driver_that_disables_and_enables_msi_x_around_the_devices_own_reset_gets_interrupts() {
    for device in [Sight::Blind, Sight::Sees].map(SelfResetting::that) {
        let (function, router) = live(&device);
        device.reset_itself();
        device.lose_enable();
        function.write_config(2, &0u16.to_le_bytes());
        restore(&function);
        device.raise(Vector(1));
        assert_eq!(router.take_delivered(), [message(1)]);
    }
}

#[test]
fn a_driver_that_masks_rewrites_and_unmasks_each_entry_after_the_devices_own_reset_gets_interrupts() {
    for device in [Sight::Blind, Sight::Sees].map(SelfResetting::that) {
        let (function, router) = live(&device);
        device.reset_itself();
        function.write_table(16 + 12, &1u32.to_le_bytes());
        entry(&function, 1, message(1), 0);
        device.raise(Vector(1));
        assert_eq!(router.take_delivered(), [message(1)]);
    }
}

#[test]
fn a_driver_that_sets_msi_enable_again_after_the_devices_own_reset_gets_interrupts() {
    for device in [Sight::Sees].map(SelfResetting::that) {
        let (function, router) = msi(&device);
        set_msi_message(&function);
        function.write_config(2, &1u16.to_le_bytes());
        device.raise(Vector(0));
        assert_eq!(router.take_delivered().len(), 1);
        device.reset_itself();
        device.lose_enable();
        let mut control = [0; 2];
        function.read_config(2, &mut control);
        function.write_config(2, &(u16::from_le_bytes(control) | 1).to_le_bytes());
        device.raise(Vector(0));
        assert_eq!(router.take_delivered().len(), 1);
    }
}

#[test]
fn a_driver_that_restores_msi_as_linux_does_after_the_devices_own_reset_gets_interrupts() {
    for device in [Sight::Blind, Sight::Sees].map(SelfResetting::that) {
        let (function, router) = msi(&device);
        // MSI is enabled before it has a message.
        function.write_config(2, &1u16.to_le_bytes());
        function.write_config(4, &0xfee0_1000u32.to_le_bytes());
        function.write_config(12, &0x41u16.to_le_bytes());
        device.raise(Vector(0));
        assert_eq!(router.take_delivered().len(), 1);
        device.reset_itself();
        device.lose_enable();
        function.write_config(2, &0u16.to_le_bytes());
        set_msi_message(&function);
        function.write_config(2, &1u16.to_le_bytes());
        device.raise(Vector(0));
        assert_eq!(router.take_delivered().len(), 1);
    }
}

/// An ordinary move to another CPU, as Linux makes it, neither reads the device's table nor requests a host vector.
#[test]
fn a_vector_that_moves_is_not_requested_again() {
    let device = SelfResetting::that(Sight::Blind);
    let (function, router) = msix(&device);
    function.write_config(2, &ENABLE.to_le_bytes());
    entry(&function, 1, message(0), 0);
    let requests = device.0.lock().unwrap().requests;
    for cpu in 0..20u16 {
        function.write_table(16 + 12, &1u32.to_le_bytes());
        // The new vector on the old CPU, and then on the new one: the data is written twice.
        let old = MsiMessage { data: message(cpu + 1).data, ..message(cpu) };
        entry(&function, 1, old, 1);
        entry(&function, 1, message(cpu + 1), 1);
        function.write_table(16 + 12, &0u32.to_le_bytes());
        device.raise(Vector(1));
        assert_eq!(router.take_delivered(), [message(cpu + 1)]);
        // Masked and unmasked with nothing written between.
        function.write_table(16 + 12, &1u32.to_le_bytes());
        function.write_table(16 + 12, &0u32.to_le_bytes());
    }
    assert_eq!(device.0.lock().unwrap().requests, requests);
}

#[test]
fn a_freed_vector_that_lingers_and_is_requested_again_is_bound_again_where_the_device_has_lost_it() {
    for device in [Sight::Blind, Sight::Sees].map(SelfResetting::that) {
        let (function, router) = msix(&device);
        function.set_release_delay(std::time::Duration::from_secs(3600));
        function.write_config(2, &ENABLE.to_le_bytes());
        entry(&function, 1, message(1), 0);
        function.write_table(16 + 12, &1u32.to_le_bytes());
        entry(&function, 1, MsiMessage { address: 0, data: 0 }, 1);
        assert_eq!(function.expiring(), 1);
        device.reset_itself();
        entry(&function, 1, message(2), 0);
        device.raise(Vector(1));
        assert_eq!(router.take_delivered(), [message(2)]);
    }
}

#[test]
fn a_vector_that_userspace_delivers_is_bound_again_where_the_device_has_lost_it() {
    for device in [Sight::Blind, Sight::Sees].map(SelfResetting::that) {
        for masks in [false, true] {
            let (function, router) = msix(&device);
            let _relay = function.relay_fd().unwrap();
            router.set_capacity(0);
            let delivered = || {
                device.raise(Vector(1));
                function.deliver_relayed();
                router.take_delivered()
            };
            function.write_config(2, &ENABLE.to_le_bytes());
            entry(&function, 1, message(1), 0);
            assert_eq!(delivered(), [message(1)]);
            device.reset_itself();
            if masks {
                function.write_table(16 + 12, &1u32.to_le_bytes());
            }
            entry(&function, 1, message(1), 0);
            assert_eq!(delivered(), [message(1)], "masked first: {masks}");
        }
    }
}

#[test]
fn an_unmasked_entry_that_is_written_once_more_is_bound_again_where_the_device_has_lost_it() {
    for device in [Sight::Blind, Sight::Sees].map(SelfResetting::that) {
        let (function, router) = live(&device);
        device.reset_itself();
        entry(&function, 1, message(1), 0);
        device.raise(Vector(1));
        assert_eq!(router.take_delivered(), [message(1)]);
    }
}

#[test]
fn a_driver_that_restores_msi_x_after_the_device_lost_its_enable_bit_too_gets_interrupts() {
    let device = SelfResetting::that(Sight::Sees);
    let (function, router) = live(&device);
    device.reset_itself();
    device.lose_enable();
    restore(&function);
    device.raise(Vector(1));
    assert_eq!(router.take_delivered(), [message(1)]);
}

/// For an ordinary move to another CPU, Linux writes Message Control unchanged each time that it writes the message.
#[test]
fn an_msi_vector_that_moves_is_not_requested_again() {
    for device in [Sight::Blind, Sight::Sees].map(SelfResetting::that) {
        let (function, router) = msi(&device);
        function.write_config(2, &1u16.to_le_bytes());
        for cpu in 0..4u32 {
            function.write_config(2, &1u16.to_le_bytes());
            function.write_config(4, &(0xfee0_0000 | cpu << 12).to_le_bytes());
            function.write_config(8, &0u32.to_le_bytes());
            function.write_config(12, &0x41u16.to_le_bytes());
            device.raise(Vector(0));
            assert_eq!(router.take_delivered().len(), 1);
        }
        assert_eq!(device.0.lock().unwrap().requests, 1);
    }
}
