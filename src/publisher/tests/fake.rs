//! A hypervisor that records each table, and accepts or refuses it as the test says.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use super::super::{Hypervisor, RoutingTable};
use crate::interrupt::Interrupt;
use crate::router::Gsi;

type Answer = Arc<dyn Fn(&Taken) -> io::Result<()> + Send + Sync>;

/// A handle. The publisher has one, and the test has another.
#[derive(Clone, Default)]
pub(super) struct Kernel(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    taken: Taken,
    commits: usize,
    /// The routes, updated only from `RoutingTable::changed`.
    mirror: Vec<(Gsi, Interrupt)>,
    /// `None` accepts every table.
    answer: Option<Answer>,
}

/// A table in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// The embedder's own entries.
    pub(super) own: Vec<u32>,
    pub(super) messages: BTreeMap<Gsi, Interrupt>,
}

impl Kernel {
    /// Lets `answer` accept or refuse each table from now on. It is called without a lock.
    pub(super) fn answer(&self, answer: impl Fn(&Taken) -> io::Result<()> + Send + Sync + 'static) {
        self.0.lock().unwrap().answer = Some(Arc::new(answer));
    }

    pub(super) fn refuse(&self, errno: i32) {
        self.answer(move |_| Err(io::Error::from_raw_os_error(errno)));
    }

    pub(super) fn take_all(&self) {
        self.0.lock().unwrap().answer = None;
    }

    pub(super) fn taken(&self) -> Taken {
        self.0.lock().unwrap().taken.clone()
    }

    pub(super) fn message(&self, gsi: Gsi) -> Option<Interrupt> {
        self.0.lock().unwrap().taken.messages.get(&gsi).copied()
    }

    pub(super) fn messages(&self) -> usize {
        self.0.lock().unwrap().taken.messages.len()
    }

    /// How many tables were accepted.
    pub(super) fn commits(&self) -> usize {
        self.0.lock().unwrap().commits
    }
}

impl Hypervisor for Kernel {
    type Entry = u32;

    fn commit(&mut self, table: RoutingTable<'_, u32>) -> io::Result<()> {
        let mut taken = Taken { own: table.own_entries().to_vec(), messages: BTreeMap::new() };
        for (gsi, interrupt) in table.routes() {
            let before = taken.messages.insert(*gsi, *interrupt);
            assert_eq!(before, None, "a GSI twice, which a hypervisor refuses");
            assert!(!taken.own.contains(&gsi.0), "a GSI of an entry of the embedder's own");
        }
        let answer = {
            let state = &mut *self.0.lock().unwrap();
            match table.changed() {
                None => state.mirror = table.routes().to_vec(),
                Some(changed) => {
                    for route in changed {
                        let entry = (route.gsi, route.interrupt);
                        match state.mirror.get_mut(route.index) {
                            Some(place) => *place = entry,
                            None => state.mirror.push(entry),
                        }
                    }
                }
            }
            assert_eq!(state.mirror, table.routes(), "what it says of changes is all that has changed");
            state.answer.clone()
        };
        if let Some(answer) = answer {
            answer(&taken)?;
        }
        let state = &mut *self.0.lock().unwrap();
        state.taken = taken;
        state.commits += 1;
        Ok(())
    }
}
