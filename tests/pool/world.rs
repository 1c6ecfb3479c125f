//! Two devices, their functions, and a model of each function: the vectors that should be live, and the interrupts that are still to
//! be delivered.

use std::collections::BTreeSet;
use std::sync::Arc;

use vm_msi::Vector;
use vm_msi::backend::{Backend, Capabilities, Growth};
use vm_msi::domain::State;
use vm_msi::pool::{
    Holding, HostVector, HostVectorRef, LogicalFunction, Parent, ParentError, Pool, PoolError, VectorHandle,
    VectorMap, Window,
};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter, Model, MsixReference, Write};

use crate::{Function, layout};

/// Vectors of each device.
pub(crate) const HOST_VECTORS: u32 = 12;
/// The vectors of the first device that its physical function may give to others: 0 to 5.
const TABLE: u32 = 6;
/// The most vectors of a function.
const VECTORS: usize = 4;
const MANAGEMENT: HostVector = HostVector(0);

/// What a function is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// The management vector and any two of the physical function's window.
    Physical,
    /// Free vectors of one device.
    Of(usize),
    /// Free vectors of both devices.
    OfBoth,
    /// All vectors on demand.
    SubDevice,
    /// A fixed vector, and the rest on demand.
    Mixed,
}

/// A device and its pool.
struct Host {
    device: FakeBackend,
    pool: Pool,
}

/// A function that a guest uses.
struct Guest {
    function: Function,
    vector_map: VectorMap,
    model: Model<MsixReference>,
    /// Part of the destination of its messages. No other function has it.
    tag: u32,
    on_demand: bool,
}

/// The devices, their functions, and the router of the VM.
pub(crate) struct World {
    hosts: [Host; 2],
    table: Arc<Window>,
    parent: Option<Parent>,
    guests: Vec<Option<Guest>>,
    loose: Vec<VectorHandle>,
    router: Arc<FakeRouter>,
    /// The failures of the devices, and of the VM.
    pub(crate) failures: [Failures; 2],
    tags: u32,
}

impl World {
    /// A world without functions, with room for `guests` of them.
    pub(crate) fn new(guests: usize) -> Self {
        let failures = [Failures::default(), Failures::default()];
        let hosts = [Growth::Dynamic, Growth::Reserved].map(|growth| {
            let capabilities = Capabilities {
                vectors: HOST_VECTORS,
                growth,
                independent: true,
                multi_message: false,
                ims: true,
                cookies: false,
            };
            let device = FakeBackend::with_capabilities(failures[0].clone(), capabilities);
            Host { device: device.clone(), pool: Pool::new(device) }
        });
        let table = Arc::new(hosts[0].pool.reserve(0..TABLE).unwrap());
        let guests = (0..guests).map(|_| None).collect();
        let router = Arc::new(FakeRouter::new(failures[1].clone()).without_memory());
        Self { hosts, table, parent: None, guests, loose: Vec::new(), router, failures, tags: 0 }
    }

    /// Makes a function in a place, if all its vectors are available.
    pub(crate) fn make(&mut self, guest: usize, kind: Kind) {
        self.drop(guest);
        let [first, second] = [0, 1].map(|host| self.hosts[host].pool.clone());
        let any = |pool: &Pool| pool.alloc_any(0..HOST_VECTORS);
        let parent = self.parent.clone();
        let handles: Result<Vec<VectorHandle>, PoolError> = match kind {
            Kind::Physical => {
                let management = self.table.alloc_at(MANAGEMENT);
                [management, self.table.alloc_any(), self.table.alloc_any()].into_iter().collect()
            }
            Kind::Of(host) => (0..3).map(|_| any(&self.hosts[host].pool)).collect(),
            Kind::OfBoth => [any(&second), any(&first), any(&second)].into_iter().collect(),
            Kind::SubDevice => Ok(Vec::new()),
            Kind::Mixed => parent.iter().map(Parent::alloc_any).collect(),
        };
        let handles = match handles {
            Ok(handles) => handles,
            Err(error) => return self.is_excused(0, &error),
        };
        let (function, on_demand) = match (kind, &parent) {
            (Kind::SubDevice | Kind::Mixed, None) => return,
            (Kind::SubDevice | Kind::Mixed, Some(parent)) => {
                (LogicalFunction::new(handles).and_on_demand(2, parent), true)
            }
            _ => (LogicalFunction::new(handles), false),
        };
        let vectors = function.capabilities().vectors as u16;
        let vector_map = function.vector_map();
        let function = Function::new(layout(vectors), self.router.clone(), function);
        let model = Model::new(function.layout());
        self.tags += 1;
        self.guests[guest] = Some(Guest { function, vector_map, model, tag: self.tags, on_demand });
    }

    /// Checks that the reason why a vector was refused is true.
    fn is_excused(&self, host: usize, error: &PoolError) {
        match error {
            PoolError::InUse { asked } => assert!(self.held(host).contains(&asked.0), "{error}"),
            PoolError::Exhausted { .. } | PoolError::Unclean { .. } | PoolError::Orphaned { .. } => {}
            _ => panic!("refused without a reason: {error}"),
        }
    }

    pub(crate) fn drop(&mut self, guest: usize) {
        // A route whose irqfd the VM does not detach is not this test's matter.
        self.failures[1].schedule(0);
        self.guests[guest] = None;
    }

    /// Allocates one vector for no function.
    pub(crate) fn take_loose(&mut self, host: usize, vector: u32) {
        let held = self.held(host).contains(&vector);
        match self.hosts[host].pool.alloc_at(HostVector(vector)) {
            Ok(handle) => {
                assert!(!held, "host vector {vector} has two holders");
                self.loose.push(handle);
            }
            Err(PoolError::Reserved { .. }) => assert!(host == 0 && vector < TABLE),
            Err(error) => self.is_excused(host, &error),
        }
    }

    pub(crate) fn drop_loose(&mut self, index: usize) {
        if !self.loose.is_empty() {
            drop(self.loose.swap_remove(index % self.loose.len()));
        }
    }

    /// The physical function begins to give vectors to others, if it can.
    pub(crate) fn adopt(&mut self) {
        let report = self.hosts[0].pool.report();
        let expected = if report.windows_open == 0 {
            Err(ParentError::Off)
        } else if !self.held(0).contains(&MANAGEMENT.0) {
            Err(ParentError::NoManagementVector { expected: MANAGEMENT })
        } else {
            Ok(())
        };
        let parent = Parent::enable(self.table.clone(), MANAGEMENT);
        assert_eq!(parent.as_ref().map(drop), expected.as_ref().map(drop));
        self.parent = parent.ok();
    }

    pub(crate) fn disown(&mut self) {
        self.parent = None;
    }

    /// The guest of a function fills in a message, unmasks, masks, or frees.
    pub(crate) fn write_entry(&mut self, guest: usize, vector: usize, dword: usize, masked: bool) {
        let Some(Guest { function, model, tag, .. }) = &mut self.guests[guest] else { return };
        let vector = vector % model.vectors();
        let message = [0xfee0_0000 | *tag << 12, 0, 0x20 + vector as u32];
        let bytes = match dword {
            0 => [0; 12].to_vec(),
            1 => u32::from(masked).to_le_bytes().to_vec(),
            _ => message.map(u32::to_le_bytes).concat(),
        };
        let offset = vector * 16 + if dword == 1 { 12 } else { 0 };
        function.write_table(offset as u64, &bytes);
        model.apply(&Write::Table(offset, bytes));
    }

    /// The guest of a function writes Message Control.
    pub(crate) fn control(&mut self, guest: usize, bits: u8) {
        let Some(Guest { function, model, .. }) = &mut self.guests[guest] else { return };
        let bytes = (u16::from(bits & 3) << 14).to_le_bytes();
        function.write_config(2, &bytes);
        model.apply(&Write::Config(2, bytes.to_vec()));
    }

    /// A part of the device is reset.
    pub(crate) fn reset(&mut self, guest: usize) {
        let Some(Guest { function, model, vector_map, .. }) = &mut self.guests[guest] else { return };
        model.reset();
        let own: Vec<HostVectorRef> = (0..VECTORS as u32).filter_map(|v| vector_map.get(Vector(v))).collect();
        function.reset(|| {
            for HostVectorRef { pool, vector } in own {
                let host = self.hosts.iter().find(|host| host.pool == pool).unwrap();
                host.device.forget(Vector(vector.0));
            }
        });
    }

    /// A device raises a vector, whichever function has it.
    pub(crate) fn raise(&mut self, host: usize, vector: u32) {
        let Host { device, pool } = &self.hosts[host];
        if device.raise(Vector(vector)) {
            let owned = |host: &HostVectorRef| host.pool == *pool && host.vector.0 == vector;
            for guest in self.guests.iter_mut().flatten() {
                let own = (0..VECTORS as u32)
                    .find(|v| guest.vector_map.get(Vector(*v)).as_ref().is_some_and(owned));
                if let Some(own) = own {
                    guest.model.raise(own as usize);
                }
            }
        }
        self.router.pump();
    }

    pub(crate) fn retry(&self) {
        self.guests.iter().flatten().for_each(|guest| guest.function.retry());
        self.hosts.iter().for_each(|host| host.pool.retry());
    }

    /// The host vectors of one device that are allocated. Checks that none is allocated twice.
    fn held(&self, host: usize) -> BTreeSet<u32> {
        let pool = &self.hosts[host].pool;
        let of_guests =
            self.guests.iter().flatten().flat_map(|guest| {
                (0..VECTORS as u32).filter_map(|vector| guest.vector_map.get(Vector(vector)))
            });
        let loose = self.loose.iter().map(|handle| (handle.pool().clone(), handle.host_vector()));
        let all = of_guests.map(|host| (host.pool, host.vector)).chain(loose);
        let mut held = BTreeSet::new();
        for (_, vector) in all.filter(|(of, _)| of == pool) {
            assert!(held.insert(vector.0), "host vector {vector} has two holders");
        }
        held
    }

    /// Checks everything that can be observed from outside.
    pub(crate) fn check(&mut self) {
        for message in self.router.take_delivered() {
            // All are asked: no two have the same message.
            let guests = self.guests.iter_mut().flatten();
            let takers = guests.map(|guest| usize::from(guest.model.deliver(message, |_| 0))).sum::<usize>();
            assert_eq!(takers, 1, "{message} was delivered and nobody was owed it");
        }
        for guest in self.guests.iter_mut().flatten() {
            guest.check();
        }
        let reports = self.guests.iter().flatten().map(|guest| guest.function.report());
        let mut bound: usize = reports.map(|report| report.host_vectors as usize).sum();
        for host in 0..self.hosts.len() {
            let held = self.held(host);
            let report = self.hosts[host].pool.report();
            let of = |wanted: &[Holding]| {
                let entries = report.vectors.iter().filter(|entry| wanted.contains(&entry.holding));
                entries.map(|entry| entry.vector.0).collect::<BTreeSet<_>>()
            };
            assert_eq!(of(&[Holding::Held, Holding::Bound]), held, "the pool knows the holders");
            let orphans = of(&[Holding::Orphaned]).len();
            let in_use = of(&[Holding::Bound]).len();
            assert_eq!(self.hosts[host].device.in_use(), (in_use + orphans, report.open));
            assert!(report.open || report.windows_open == 0);
            bound -= in_use;
        }
        assert_eq!(bound, 0, "what functions have bound is bound in the devices");
    }

    /// The host recovers. Checks that every vector is as its guest wants it, and that all are released, in an order that `seed` sets.
    pub(crate) fn finish(mut self, seed: u64) {
        self.failures.iter().for_each(|failures| failures.schedule(0));
        // What one gives back another may need.
        self.retry();
        self.retry();
        self.check();
        let exhausted = self.parent.as_ref().is_some_and(|parent| parent.alloc_any().is_err());
        for guest in self.guests.iter().flatten() {
            let failed_steps = guest.function.failed_steps();
            assert!(failed_steps == 0 || guest.on_demand && (exhausted || self.parent.is_none()));
        }
        let mut rng = fastrand::Rng::with_seed(seed);
        let Self { hosts, table, parent, guests, mut loose, router, .. } = self;
        let mut parts: Vec<Box<dyn std::any::Any>> =
            guests.into_iter().flatten().map(|guest| Box::new(guest.function) as _).collect();
        parts.extend([Box::new(table) as Box<dyn std::any::Any>, Box::new(parent)]);
        parts.extend(loose.drain(..).map(|handle| Box::new(handle) as _));
        rng.shuffle(&mut parts);
        drop(parts);
        assert_eq!(router.in_use(), (0, 0));
        for Host { device, pool } in hosts {
            let report = pool.report();
            assert!(report.vectors.iter().all(|entry| entry.holding == Holding::Free && !entry.reserved));
            assert_eq!((device.in_use(), pool.failed_steps()), ((0, false), 0));
        }
    }
}

impl Guest {
    /// Checks that each vector is as its guest wants it, and that every undelivered interrupt is pending.
    fn check(&mut self) {
        let Self { function, model, .. } = self;
        let mut pba = [0; 8];
        function.read_pba(0, &mut pba);
        let report = function.report();
        for vector in 0..model.vectors() {
            let of_vector = report.vectors.iter().find(|v| v.vector.index() == vector);
            let live = of_vector.filter(|v| v.state == State::Live).and_then(|v| v.message);
            let (wanted, owed) = (model.live(vector), model.owed(vector));
            if function.failed_steps() == 0 {
                assert_eq!(live, wanted, "vector {vector} is as the guest wants it");
            }
            let stuck = model.set_stuck(vector, of_vector);
            match live {
                Some(_) => {
                    assert_eq!(live, stuck.or(wanted), "vector {vector} is live on what the guest wants");
                    assert!(!owed, "vector {vector} is live and its interrupt did not come");
                }
                None => assert_eq!(pba[0] >> vector & 1 == 1, owed, "the pending bit of vector {vector}"),
            }
        }
    }
}
