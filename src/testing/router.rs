//! A router without KVM: routes in a map, irqfds that take signals when they are pumped.

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
    /// Attached eventfds by their owner's descriptor.
    irqfds: BTreeMap<RawFd, (EventFd, Gsi)>,
    capacity: usize,
    commits: usize,
    delivered: Vec<MsiMessage>,
    written: Vec<MsiMessage>,
    /// Messages that no interrupt controller accepts.
    absent: Vec<Interrupt>,
}

#[derive(Debug)]
struct Published {
    message: Interrupt,
    users: usize,
    /// Somebody has gone and not given it back.
    pinned: bool,
}

/// The fake of a VM's interrupt controllers.
#[derive(Debug)]
pub struct FakeRouter {
    failures: Failures,
    /// A message that is for no APIC is a write to memory. Otherwise it is refused.
    has_memory: bool,
    vm: Mutex<Vm>,
}

impl FakeRouter {
    /// A router with room for any number of messages.
    pub fn new(failures: Failures) -> Self {
        Self { failures, has_memory: true, vm: Mutex::new(Vm { capacity: usize::MAX, ..Default::default() }) }
    }

    /// The same router, which refuses a message that is for no APIC, so that the vector is held.
    #[must_use]
    pub fn without_memory(self) -> Self {
        Self { has_memory: false, ..self }
    }

    /// The messages that were written to memory since the last call, oldest first.
    pub fn take_written(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut self.vm().written)
    }

    /// From now on there is room for so many messages; those in use stay.
    pub fn set_capacity(&self, messages: usize) {
        self.vm().capacity = messages;
    }

    /// From now on no interrupt controller accepts `message` from [`Router::signal`].
    pub fn set_not_accepted(&self, message: Interrupt) {
        self.vm().absent.push(message);
    }

    /// Lets every attached eventfd deliver what it holds, as the kernel does the moment it is signalled.
    pub fn pump(&self) {
        let vm = &mut *self.vm();
        for (eventfd, gsi) in vm.irqfds.values() {
            if eventfd.read().is_ok() {
                let route = vm.routes.get(gsi).expect("a signal met an irqfd without a route");
                vm.delivered.push(route.message.message());
            }
        }
    }

    /// The interrupts since the last call, oldest first, after another [pump](FakeRouter::pump).
    pub fn take_delivered(&self) -> Vec<MsiMessage> {
        self.pump();
        std::mem::take(&mut self.vm().delivered)
    }

    /// How many interrupts [`FakeRouter::take_delivered`] would take now, without another pump.
    pub(super) fn delivered(&self) -> usize {
        self.vm().delivered.len()
    }

    /// As [`FakeRouter::pump`], but the interrupts are the caller's.
    pub(super) fn pump_apart(&self) -> Vec<MsiMessage> {
        let before = self.delivered();
        self.pump();
        self.vm().delivered.split_off(before)
    }

    /// How many times the routing table was committed.
    pub fn commits(&self) -> usize {
        self.vm().commits
    }

    /// The kernel detaches what its owner has closed without being allowed to detach it: that pins its message for the
    /// life of the VM.
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

    /// How many eventfds are attached, and how many uses of messages there are that may be given back yet.
    pub fn in_use(&self) -> (usize, usize) {
        let vm = self.vm();
        (vm.irqfds.len(), vm.routes.values().map(|route| route.users).sum())
    }

    fn vm(&self) -> MutexGuard<'_, Vm> {
        self.vm.lock().expect("an earlier check has failed")
    }
}

impl Vm {
    /// The GSI of a message, which takes an unused one's room where there is none; and whether it is new.
    fn place(&mut self, message: Interrupt) -> Option<(Gsi, bool)> {
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
            // Interrupts may come as it begins and as it ends, and the VM's lock is not held then.
            let call = self.failures.next();
            let vm = &mut *self.vm();
            let routes_now = vm.routes.len();
            let refused = |source| RouterError::Commit { routes: routes_now, source };
            let route = call.as_ref().map_err(|error| refused(again(error))).and_then(|_| {
                let no_room = RouterError::NoRoom { message: *message, routes: routes_now };
                vm.place(*message).ok_or(no_room)
            });
            routes.push(route.map(|(gsi, is_new)| {
                new |= is_new;
                vm.routes.get_mut(&gsi).expect("it was placed").users += 1;
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
        // What the device raises meanwhile comes after this one.
        let _call = self.failures.next_at_once().map_err(|source| RouterError::Signal { message, source })?;
        let vm = &mut *self.vm();
        if vm.absent.contains(&message) {
            return Ok(Signalled::NotAccepted);
        }
        vm.delivered.push(message.message());
        Ok(Signalled::Delivered)
    }
}

/// The same error once more.
fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// What the kernel calls an eventfd, also where its descriptor's number has been used again; nothing of one that is
/// closed.
fn identity(fd: RawFd) -> Option<String> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    about.lines().find(|line| line.starts_with("eventfd-id")).map(str::to_owned)
}
