//! A router without KVM: routes in a map, irqfds that take signals when they are pumped.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard};

use vmm_sys_util::eventfd::EventFd;

use super::Failures;
use crate::apic::ApicMessage;
use crate::message::MsiMessage;
use crate::router::{Gsi, Route, Router, RouterError};

#[derive(Debug, Default)]
struct Vm {
    /// Published messages by GSI, with their uses.
    routes: BTreeMap<Gsi, (ApicMessage, usize)>,
    /// Attached eventfds by their owner's descriptor.
    irqfds: BTreeMap<RawFd, (EventFd, Gsi)>,
    capacity: usize,
    commits: usize,
    delivered: Vec<MsiMessage>,
}

/// The fake of a VM's interrupt controllers.
#[derive(Debug)]
pub struct FakeRouter {
    failures: Failures,
    vm: Mutex<Vm>,
}

impl FakeRouter {
    /// A router with room for any number of messages.
    pub fn new(failures: Failures) -> Self {
        Self { failures, vm: Mutex::new(Vm { capacity: usize::MAX, ..Default::default() }) }
    }

    /// From now on there is room for so many messages; those in use stay.
    pub fn set_capacity(&self, messages: usize) {
        self.vm().capacity = messages;
    }

    /// Lets every attached eventfd deliver what it holds, as the kernel does the moment it is signalled.
    pub fn pump(&self) {
        let vm = &mut *self.vm();
        for (eventfd, gsi) in vm.irqfds.values() {
            if eventfd.read().is_ok() {
                let (message, _) = vm.routes.get(gsi).expect("a signal met an irqfd without a route");
                vm.delivered.push(message.message());
            }
        }
    }

    /// The interrupts since the last call, oldest first.
    pub fn take_delivered(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut self.vm().delivered)
    }

    /// How many times the routing table was committed.
    pub fn commits(&self) -> usize {
        self.vm().commits
    }

    /// How many eventfds are attached, and how many uses of messages there are.
    pub fn in_use(&self) -> (usize, usize) {
        let vm = self.vm();
        (vm.irqfds.len(), vm.routes.values().map(|(_, users)| users).sum())
    }

    fn vm(&self) -> MutexGuard<'_, Vm> {
        self.vm.lock().expect("an earlier check has failed")
    }
}

impl Vm {
    /// The GSI of a message, which takes an unused one's room where there is none; and whether it is new.
    fn place(&mut self, message: ApicMessage) -> Option<(Gsi, bool)> {
        if let Some((gsi, _)) = self.routes.iter().find(|(_, (published, _))| *published == message) {
            return Some((*gsi, false));
        }
        let unused = self.routes.iter().find(|(_, (_, users))| *users == 0).map(|(gsi, _)| *gsi);
        let free = (0..).map(Gsi).find(|gsi| !self.routes.contains_key(gsi))?;
        let gsi = if self.routes.len() < self.capacity { free } else { unused? };
        assert!(self.irqfds.values().all(|(_, used)| *used != gsi), "a route changed under an irqfd");
        self.routes.insert(gsi, (message, 0));
        Some((gsi, true))
    }
}

impl Router for FakeRouter {
    fn publish(&self, messages: &[ApicMessage], routes: &mut Vec<Result<Route, RouterError>>) {
        routes.clear();
        let vm = &mut *self.vm();
        let mut new = false;
        for message in messages {
            let routes_now = vm.routes.len();
            let refused = |source| RouterError::Commit { routes: routes_now, source };
            let route = self.failures.next().map_err(refused).and_then(|()| {
                let no_room = RouterError::NoRoom { message: *message, routes: routes_now };
                vm.place(*message).ok_or(no_room)
            });
            routes.push(route.map(|(gsi, is_new)| {
                new |= is_new;
                vm.routes.get_mut(&gsi).expect("it was placed").1 += 1;
                Route::new(gsi, *message)
            }));
        }
        vm.commits += usize::from(new);
    }

    fn attach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        let gsi = route.gsi();
        self.failures.next().map_err(|source| RouterError::Attach { gsi, source })?;
        let clone = eventfd.try_clone().expect("a descriptor for the fake");
        let before = self.vm().irqfds.insert(eventfd.as_raw_fd(), (clone, gsi));
        assert!(before.is_none(), "an eventfd was attached twice");
        self.pump();
        Ok(())
    }

    fn detach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        let attached = self.vm().irqfds.remove(&eventfd.as_raw_fd());
        assert_eq!(attached.map(|(_, gsi)| gsi), Some(route.gsi()), "detached from where it was not");
        Ok(())
    }

    fn withdraw(&self, route: Route) {
        let vm = &mut *self.vm();
        let (_, users) = vm.routes.get_mut(&route.gsi()).expect("a route that was published");
        *users = users.checked_sub(1).expect("a route that was not withdrawn yet");
        let attached = vm.irqfds.values().filter(|(_, gsi)| *gsi == route.gsi()).count();
        assert!(attached <= *users, "a route was withdrawn under its irqfd");
    }

    fn signal(&self, message: ApicMessage) -> Result<(), RouterError> {
        self.failures.next().map_err(|source| RouterError::Signal { message, source })?;
        self.vm().delivered.push(message.message());
        Ok(())
    }
}
