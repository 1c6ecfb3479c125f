//! A VMM with its own routing table and GSI allocator, on a hypervisor that is not KVM: `cargo run --example own_routing`.
//!
//! vm-msi asks a `Router` for messages' routes, and to attach eventfds to them. A `Publisher` keeps the routes. It is handed the
//! VMM's own entries (here the pin of a serial port) and takes GSIs from the VMM's allocator, which other devices use too. The
//! VMM puts a table in force. The PCI bus holds its devices as `dyn`: a disk whose interrupts come through eventfds, and a timer
//! that triggers them itself and needs no route. Features: none.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use vm_allocator::IdAllocator;
use vm_msi::backend::{EventfdSet, StableEventfds};
use vm_msi::interrupt::Interrupt;
use vm_msi::msix::{Bar, Layout, Msix, TableSize};
use vm_msi::publisher::{Hypervisor, Publisher, RoutingTable};
use vm_msi::router::{Gsi, Route, RouterError, Signalled};
use vm_msi::{Domain, InterruptFunction, MsiMessage, MsixFunction, Router, SoftwareMsix, Vector};
use vmm_sys_util::eventfd::EventFd;

/// The fake hypervisor's VM: the table in force (a pin has no message), attached eventfds, and what the guest got.
#[derive(Default)]
struct Vm {
    table: BTreeMap<Gsi, Option<MsiMessage>>,
    attached: BTreeMap<RawFd, (EventFd, Gsi)>,
    delivered: Vec<MsiMessage>,
}

/// The call that puts a table in force. The publisher has the lock on commits and calls it with no other lock held.
struct Tables(Arc<Mutex<Vm>>);

impl Hypervisor for Tables {
    /// The GSI of a pin.
    type Entry = Gsi;

    fn commit(&mut self, table: RoutingTable<'_, Gsi>) -> std::io::Result<()> {
        let pins = table.own_entries().iter().map(|gsi| (*gsi, None));
        let routes = table.routes().iter().map(|(gsi, interrupt)| (*gsi, Some(interrupt.message())));
        self.0.lock().unwrap().table = pins.chain(routes).collect();
        Ok(())
    }
}

/// The VMM's router: routes are the publisher's, eventfds and signals the hypervisor's.
struct VmmRouter {
    vm: Arc<Mutex<Vm>>,
    publisher: Publisher<Tables>,
}

impl Router for VmmRouter {
    fn get(&self, message: Interrupt) -> Option<Route> {
        self.publisher.get(message)
    }

    fn get_or_publish(&self, messages: &[Interrupt], routes: &mut Vec<Result<Route, RouterError>>) {
        self.publisher.get_or_publish(messages, routes);
    }

    fn put(&self, route: Route) {
        self.publisher.put(route);
    }

    fn attach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        let clone = eventfd.try_clone().map_err(|source| RouterError::Attach { gsi: route.gsi(), source })?;
        self.vm.lock().unwrap().attached.insert(eventfd.as_raw_fd(), (clone, route.gsi()));
        Ok(())
    }

    fn detach(&self, eventfd: &EventFd, _: &Route) -> Result<(), RouterError> {
        self.vm.lock().unwrap().attached.remove(&eventfd.as_raw_fd());
        Ok(())
    }

    fn signal(&self, message: Interrupt) -> Result<Signalled, RouterError> {
        self.vm.lock().unwrap().delivered.push(message.message());
        Ok(Signalled::Delivered)
    }
}

/// What the PCI bus knows of a device's interrupts.
trait PciDevice: Send + Sync {
    fn write(&self, control: u16, entry: [u32; 4]);
}

impl<D: Domain + Send + Sync> PciDevice for InterruptFunction<Msix, D> {
    fn write(&self, control: u16, entry: [u32; 4]) {
        self.write_config(2, &control.to_le_bytes());
        self.write_table(0, entry.map(u32::to_le_bytes).as_flattened());
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let vm = Arc::<Mutex<Vm>>::default();
    let gsis = Arc::new(Mutex::new(IdAllocator::new(4, 1023)?));
    let serial = Gsi(gsis.lock().unwrap().allocate_id()?);
    let next_gsi = std::iter::from_fn(move || gsis.lock().unwrap().allocate_id().ok().map(Gsi));
    let publisher = Publisher::new(Tables(vm.clone()), next_gsi, 512, 1).with_own_entries(vec![serial]);
    let router = Arc::new(VmmRouter { vm: vm.clone(), publisher });

    let (size, bar) = TableSize::new(1).zip(Bar::new(0)).ok_or("a table in a BAR")?;
    let layout = Layout::new(size, (bar, 0), (bar, 0x800))?;
    let eventfds = EventfdSet::new(1)?;
    let disk = MsixFunction::new(layout.clone(), router.clone(), StableEventfds::new(eventfds.clone()));
    let timer = Arc::new(SoftwareMsix::software(layout, router.clone()));
    let bus: [Arc<dyn PciDevice>; 2] = [Arc::new(disk), timer.clone()];
    bus.iter().zip([0x41, 0x42]).for_each(|(device, data)| device.write(0x8000, [0xfee0_0000, 0, data, 0]));
    let in_use = router.publisher.counters().in_use;
    println!("messages with a route in use: {in_use}");
    eventfds.get(Vector(0)).ok_or("a vector")?.write(1)?;
    timer.trigger(Vector(0));
    let Vm { table, attached, delivered } = &mut *vm.lock().unwrap();
    let signalled = attached.values().filter(|(eventfd, _)| eventfd.read().is_ok());
    delivered.extend(signalled.filter_map(|(_, gsi)| *table.get(gsi)?));
    println!("GSI {serial} is the pin's; the timer and the disk have sent {delivered:x?}");
    let have_arrived = delivered.iter().map(|message| message.data).eq([0x42, 0x41]);
    let is_right = have_arrived && in_use == 1 && table[&serial].is_none();
    is_right.then_some(()).ok_or("not all of this is as it should be".into())
}
