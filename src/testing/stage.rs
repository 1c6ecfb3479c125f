//! A remapping unit without a guest's memory: a table, and what an invalidation has made of it.

use std::ops::Range;
use std::sync::{RwLock, RwLockReadGuard};

use crate::interrupt::RequesterId;
use crate::message::MsiMessage;
use crate::refusal::Fault;
use crate::remap::{Stage, handle};

/// The entries of its table.
const ENTRIES: usize = 256;

/// An entry: present, and for which function.
type Entry = Option<(RequesterId, MsiMessage)>;

#[derive(Debug)]
struct Tables {
    /// As the guest wrote it.
    written: Vec<Entry>,
    /// As the unit has cached it: what it translates by.
    cached: Vec<Entry>,
}

/// A unit that caches its whole table, so that nothing the guest writes counts before it says so. Messages in
/// compatibility format pass.
#[derive(Debug)]
pub struct FakeStage(RwLock<Tables>);

impl Default for FakeStage {
    /// A unit whose table has 256 entries, none of them present.
    fn default() -> Self {
        Self(RwLock::new(Tables { written: vec![None; ENTRIES], cached: vec![None; ENTRIES] }))
    }
}

impl FakeStage {
    /// The guest writes an entry: for the messages of `requester`, or not present. Nothing changes yet.
    pub fn write(&self, index: u8, entry: Option<(RequesterId, MsiMessage)>) {
        self.0.write().expect("an earlier check has failed").written[usize::from(index)] = entry;
    }

    /// The guest says that entries have changed. Functions behind the stage must be told next.
    pub fn invalidate(&self, entries: Range<usize>) {
        let tables = &mut *self.0.write().expect("an earlier check has failed");
        let entries = entries.start.min(ENTRIES)..entries.end.min(ENTRIES);
        tables.cached[entries.clone()].copy_from_slice(&tables.written[entries]);
    }

    fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.0.read().expect("an earlier check has failed")
    }
}

impl Stage for FakeStage {
    fn translate(&self, requester: RequesterId, message: MsiMessage) -> Result<MsiMessage, Fault> {
        let Some(index) = handle::index(message)? else { return Ok(message) };
        match self.tables().cached.get(index as usize) {
            None => Err(Fault::Index { index }),
            Some(None) => Err(Fault::NotPresent { index }),
            Some(Some((owner, _))) if *owner != requester => Err(Fault::Source { index }),
            Some(Some((_, message))) => Ok(*message),
        }
    }
}
