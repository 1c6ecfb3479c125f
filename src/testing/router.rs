//! A fake router without KVM: routes in a map, and irqfds that take signals when they are pumped.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard};

use vmm_sys_util::eventfd::EventFd;

use super::Failures;
use crate::apic::{ApicMessage, InvalidMessage};
use crate::interrupt::{Interrupt, Target};
use crate::message::MsiMessage;
use crate::refusal::Refusal;
use crate::router::{Gsi, Route, Router, RouterError, Signalled};

#[derive(Debug, Default)]
struct Vm {
    routes: BTreeMap<Gsi, Published>,
    /// Attached eventfds, by the descriptor of their owner.
    irqfds: BTreeMap<RawFd, (EventFd, Gsi)>,
    capacity: usize,
    commits: usize,
    delivered: Vec<MsiMessage>,
    written: Vec<MsiMessage>,
    /// Messages that no interrupt controller accepts.
    not_accepted: Vec<Interrupt>,
}

#[derive(Debug)]
struct Published {
    message: Interrupt,
    users: usize,
    /// A user of it was dropped and not put back.
    pinned: bool,
}

/// A fake of a VM's interrupt controllers.
#[derive(Debug)]
pub struct FakeRouter {
    failures: Failures,
    /// A message that addresses no APIC is a write to memory. Otherwise it is refused.
    has_memory: bool,
    vm: Mutex<Vm>,
}

impl FakeRouter {
    /// A router with room for any number of messages.
    pub fn new(failures: Failures) -> Self {
        Self { failures, has_memory: true, vm: Mutex::new(Vm { capacity: usize::MAX, ..Default::default() }) }
    }

    /// The same router, but it refuses a message that addresses no APIC, so the vector is held.
    #[must_use]
    pub fn without_memory(self) -> Self {
        Self { has_memory: false, ..self }
    }

    /// The messages that were written to memory since the last call, in order.
    pub fn take_written(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut self.vm().written)
    }

    /// Sets the number of messages that there is room for. Messages in use stay.
    pub fn set_capacity(&self, messages: usize) {
        self.vm().capacity = messages;
    }

    /// Makes [`Router::signal`] report `message` as not accepted from now on.
    pub fn set_not_accepted(&self, message: Interrupt) {
        self.vm().not_accepted.push(message);
    }

    /// Delivers the signals of every attached eventfd. The kernel does so at once when an eventfd is
    /// signalled.
    pub fn pump(&self) {
        let vm = &mut *self.vm();
        for (eventfd, gsi) in vm.irqfds.values() {
            if eventfd.read().is_ok() {
                let route = vm.routes.get(gsi).expect("a signal met an irqfd without a route");
                vm.delivered.push(route.message.message());
            }
        }
    }

    /// Pumps, and returns the interrupts since the last call, in order.
    pub fn take_delivered(&self) -> Vec<MsiMessage> {
        self.pump();
        std::mem::take(&mut self.vm().delivered)
    }

    /// How many interrupts [`FakeRouter::take_delivered`] would return without pumping.
    pub(super) fn delivered(&self) -> usize {
        self.vm().delivered.len()
    }

    /// As [`FakeRouter::pump`], but returns the interrupts to the caller.
    pub(super) fn pump_apart(&self) -> Vec<MsiMessage> {
        let before = self.delivered();
        self.pump();
        self.vm().delivered.split_off(before)
    }

    /// How many commits of the routing table were made.
    pub fn commits(&self) -> usize {
        self.vm().commits
    }

    /// Detaches eventfds that their owner has closed while attached, as the kernel does. Their messages are
    /// pinned for the life of the VM.
    pub fn end_closed(&self) {
        let Vm { irqfds, routes, .. } = &mut *self.vm();
        irqfds.retain(|fd, (clone, gsi)| {
            let is_open = identity(*fd) == identity(clone.as_raw_fd());
            if !is_open {
                let route = routes.get_mut(gsi).expect("a route that was published");
                (route.users, route.pinned) = (route.users - 1, true);
            }
            is_open
        });
    }

    /// How many eventfds are attached, and how many uses of messages have not been put back.
    pub fn in_use(&self) -> (usize, usize) {
        let vm = self.vm();
        (vm.irqfds.len(), vm.routes.values().map(|route| route.users).sum())
    }

    fn vm(&self) -> MutexGuard<'_, Vm> {
        self.vm.lock().expect("an earlier check has failed")
    }
}

impl Vm {
    /// The GSI of a message, and whether the message is new. If there is no room, it replaces an unused
    /// message.
    fn publish(&mut self, message: Interrupt) -> Option<(Gsi, bool)> {
        if let Some((gsi, _)) = self.routes.iter().find(|(_, route)| route.message == message) {
            return Some((*gsi, false));
        }
        let is_unused = |route: &Published| route.users == 0 && !route.pinned;
        let unused = self.routes.iter().find(|(_, route)| is_unused(route)).map(|(gsi, _)| *gsi);
        let free = (0..).map(Gsi).find(|gsi| !self.routes.contains_key(gsi))?;
        let gsi = if self.routes.len() < self.capacity { free } else { unused? };
        assert!(self.irqfds.values().all(|(_, used)| *used != gsi), "a route changed under an irqfd");
        self.routes.insert(gsi, Published { message, users: 0, pinned: false });
        Some((gsi, true))
    }
}

impl Router for FakeRouter {
    fn translate(&self, message: MsiMessage) -> Result<Target, Refusal> {
        match ApicMessage::try_from(message) {
            Ok(message) => Ok(Target::Interrupt(message.into())),
            Err(InvalidMessage::Address(message)) if self.has_memory => Ok(Target::Memory(message)),
            Err(invalid) => Err(invalid.into()),
        }
    }

    fn write_memory(&self, message: MsiMessage) {
        self.vm().written.push(message);
    }

    fn get(&self, message: Interrupt) -> Option<Route> {
        let vm = &mut *self.vm();
        let (gsi, published) = vm.routes.iter_mut().find(|(_, published)| published.message == message)?;
        published.users += 1;
        Some(Route::new(*gsi, message))
    }

    fn get_or_publish(&self, messages: &[Interrupt], routes: &mut Vec<Result<Route, RouterError>>) {
        routes.clear();
        let mut new = false;
        for message in messages {
            // Interrupts may come when the call begins and when it ends. The fake's lock is not held then.
            let call = self.failures.next();
            let vm = &mut *self.vm();
            let routes_now = vm.routes.len();
            let refused = |source| RouterError::Commit { routes: routes_now, source };
            let route = call.as_ref().map_err(|error| refused(again(error))).and_then(|_| {
                let no_room = RouterError::NoRoom { message: *message, routes: routes_now };
                vm.publish(*message).ok_or(no_room)
            });
            routes.push(route.map(|(gsi, is_new)| {
                new |= is_new;
                vm.routes.get_mut(&gsi).expect("it was published").users += 1;
                Route::new(gsi, *message)
            }));
        }
        self.vm().commits += usize::from(new);
    }

    fn attach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        let gsi = route.gsi();
        let _call = self.failures.next().map_err(|source| RouterError::Attach { gsi, source })?;
        let published = self.vm().routes.get(&gsi).map(|published| (published.message, published.users > 0));
        assert_eq!(published, Some((route.message(), true)), "attached to a route that is not in use");
        let clone = eventfd.try_clone().expect("a descriptor for the fake");
        let before = self.vm().irqfds.insert(eventfd.as_raw_fd(), (clone, gsi));
        assert!(before.is_none(), "an eventfd was attached twice");
        self.pump();
        Ok(())
    }

    fn detach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        let gsi = route.gsi();
        let _call = self.failures.next().map_err(|source| RouterError::Detach { gsi, source })?;
        let attached = self.vm().irqfds.remove(&eventfd.as_raw_fd());
        assert_eq!(attached.map(|(_, gsi)| gsi), Some(gsi), "detached from where it was not");
        Ok(())
    }

    fn put(&self, route: Route) {
        let vm = &mut *self.vm();
        let Published { users, .. } = vm.routes.get_mut(&route.gsi()).expect("a route that was published");
        *users = users.checked_sub(1).expect("a route that was not put back yet");
        let attached = vm.irqfds.values().filter(|(_, gsi)| *gsi == route.gsi()).count();
        assert!(attached <= *users, "a route was put back under its irqfd");
    }

    fn signal(&self, message: Interrupt) -> Result<Signalled, RouterError> {
        // Interrupts that the device raises meanwhile come after this one.
        let _call = self.failures.next_at_once().map_err(|source| RouterError::Signal { message, source })?;
        let vm = &mut *self.vm();
        if vm.not_accepted.contains(&message) {
            return Ok(Signalled::NotAccepted);
        }
        vm.delivered.push(message.message());
        Ok(Signalled::Delivered)
    }
}

/// A copy of the error.
fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// The kernel's ID of an eventfd, which differs if the descriptor's number was reused. `None` for a closed
/// descriptor.
fn identity(fd: RawFd) -> Option<String> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    about.lines().find(|line| line.starts_with("eventfd-id")).map(str::to_owned)
}
