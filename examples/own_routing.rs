//! A VMM with its own routing table and GSI allocator, on a hypervisor that is not KVM: `cargo run --example own_routing`.
//!
//! vm-msi asks a `Router` for messages' routes, and to attach eventfds to them. This VMM's table has an entry of its own (the
//! pin of a serial port). GSIs come from an allocator. The PCI bus holds its devices as `dyn`: a disk whose interrupts come
//! through eventfds, and a timer that triggers them itself and needs no route. Features: none.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use vm_allocator::IdAllocator;
use vm_msi::backend::{EventfdSet, StableEventfds};
use vm_msi::interrupt::Interrupt;
use vm_msi::msix::{Bar, Layout, Msix, TableSize};
use vm_msi::router::{Gsi, Route, RouterError, Signalled};
use vm_msi::{Domain, Function, MsiMessage, MsixFunction, Router, SoftwareMsix, Vector};
use vmm_sys_util::eventfd::EventFd;

/// The fake hypervisor: the table that it was last given, attached eventfds, and what the guest got.
#[derive(Default)]
struct Hypervisor {
    table: BTreeMap<Gsi, Option<MsiMessage>>,
    attached: BTreeMap<RawFd, (EventFd, Gsi)>,
    delivered: Vec<MsiMessage>,
}

impl Hypervisor {
    /// Delivers what attached eventfds hold, and answers what the guest got since the last call.
    fn run(&mut self) -> Vec<MsiMessage> {
        let signalled = self.attached.values().filter(|(eventfd, _)| eventfd.read().is_ok());
        self.delivered.extend(signalled.filter_map(|(_, gsi)| *self.table.get(gsi)?));
        std::mem::take(&mut self.delivered)
    }
}

/// The VMM's interrupt code: the hypervisor's calls, the messages in use with their numbers of uses, and free GSIs.
struct Vmm {
    hypervisor: Mutex<Hypervisor>,
    messages: Mutex<BTreeMap<Interrupt, (Gsi, usize)>>,
    gsis: Mutex<IdAllocator>,
}

impl Router for Vmm {
    /// One commit for all. A vector whose message has no room is held, and `Function::maintain` tries again.
    fn publish(&self, wanted: &[Interrupt], routes: &mut Vec<Result<Route, RouterError>>) {
        let messages = &mut *self.messages.lock().unwrap();
        routes.clear();
        routes.extend(wanted.iter().map(|message| {
            let (gsi, uses) = (messages.get(message).copied())
                .or_else(|| Some((Gsi(self.gsis.lock().unwrap().allocate_id().ok()?), 0)))
                .ok_or(RouterError::NoRoom { message: *message, routes: messages.len() })?;
            messages.insert(*message, (gsi, uses + 1));
            Ok(Route::new(gsi, *message))
        }));
        // A table replaces the one before it, so the VMM's own entry is in each: the serial port's pin is GSI 4.
        let entries = messages.iter().map(|(message, (gsi, _))| (*gsi, Some(message.message())));
        self.hypervisor.lock().unwrap().table = entries.chain([(Gsi(4), None)]).collect();
    }

    fn attach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        let clone = eventfd.try_clone().map_err(|source| RouterError::Attach { gsi: route.gsi(), source })?;
        self.hypervisor.lock().unwrap().attached.insert(eventfd.as_raw_fd(), (clone, route.gsi()));
        Ok(())
    }

    fn detach(&self, eventfd: &EventFd, _: &Route) -> Result<(), RouterError> {
        self.hypervisor.lock().unwrap().attached.remove(&eventfd.as_raw_fd());
        Ok(())
    }

    /// The GSI of a message that no vector uses goes back. The entry leaves the table with the next commit.
    fn withdraw(&self, route: Route) {
        let messages = &mut *self.messages.lock().unwrap();
        match messages.remove(&route.message()) {
            Some((gsi, 1)) => drop(self.gsis.lock().unwrap().free_id(gsi.0)),
            used => messages.extend(used.map(|(gsi, uses)| (route.message(), (gsi, uses - 1)))),
        }
    }

    fn signal(&self, message: Interrupt) -> Result<Signalled, RouterError> {
        self.hypervisor.lock().unwrap().delivered.push(message.message());
        Ok(Signalled::Delivered)
    }
}

/// What the PCI bus knows of a device's interrupts.
trait PciDevice: Send + Sync {
    fn write(&self, control: u16, entry: [u32; 4]);
}

impl<D: Domain + Send + Sync> PciDevice for Function<Msix, D> {
    fn write(&self, control: u16, entry: [u32; 4]) {
        self.write_config(2, &control.to_le_bytes());
        self.write_table(0, entry.map(u32::to_le_bytes).as_flattened());
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gsis = IdAllocator::new(24, 1023)?.into();
    let vmm = Arc::new(Vmm { hypervisor: Mutex::default(), messages: Mutex::default(), gsis });
    let (size, bar) = TableSize::new(1).zip(Bar::new(0)).ok_or("a table in a BAR")?;
    let layout = Layout::new(size, (bar, 0), (bar, 0x800))?;
    let eventfds = EventfdSet::new(1)?;
    let disk = MsixFunction::new(layout.clone(), vmm.clone(), StableEventfds::new(eventfds.clone()));
    let timer = Arc::new(SoftwareMsix::software(layout, vmm.clone()));
    let bus: [Arc<dyn PciDevice>; 2] = [Arc::new(disk), timer.clone()];
    bus.iter().zip([0x41, 0x42]).for_each(|(device, data)| device.write(0x8000, [0xfee0_0000, 0, data, 0]));
    eventfds.get(Vector(0)).ok_or("a vector")?.write(1)?;
    timer.trigger(Vector(0));
    let sent = vmm.hypervisor.lock().unwrap().run();
    let gsis: Vec<Gsi> = vmm.hypervisor.lock().unwrap().table.keys().copied().collect();
    println!("the timer and the disk have sent {sent:x?}; the table has {gsis:?}");
    bus[0].write(0, [0; 4]);
    let in_use = vmm.messages.lock().unwrap().len();
    println!("the guest has turned the disk's MSI-X off: {in_use} messages in use");
    let have_arrived = sent.iter().map(|message| message.data).eq([0x42, 0x41]);
    let is_right = have_arrived && gsis == [Gsi(4), Gsi(24)] && in_use == 0;
    is_right.then_some(()).ok_or("not all of this is as it should be".into())
}
