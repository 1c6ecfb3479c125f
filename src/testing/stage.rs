//! A fake remapping unit without guest memory: a table, and its contents as of the last invalidation.

use std::ops::Range;
use std::sync::{RwLock, RwLockReadGuard};

use crate::interrupt::RequesterId;
use crate::message::MsiMessage;
use crate::refusal::Fault;
use crate::remap::{Stage, handle};

/// The number of entries of the table.
const ENTRIES: usize = 256;

/// The contents of an entry, if it is present: its requester and its message.
type Entry = Option<(RequesterId, MsiMessage)>;

#[derive(Debug)]
struct Tables {
    /// The entries as the guest wrote them.
    written: Vec<Entry>,
    /// The entries in the unit's cache, by which it translates.
    cached: Vec<Entry>,
}

/// A unit that caches its whole table, so an entry takes effect only after an invalidation. Messages in
/// compatibility format pass.
#[derive(Debug)]
pub struct FakeStage(RwLock<Tables>);

impl Default for FakeStage {
    /// A unit with a table of 256 entries, none of which is present.
    fn default() -> Self {
        Self(RwLock::new(Tables { written: vec![None; ENTRIES], cached: vec![None; ENTRIES] }))
    }
}

impl FakeStage {
    /// The guest writes an entry, for messages of a requester or not present. It takes effect after an
    /// invalidation.
    pub fn write(&self, index: u8, entry: Option<(RequesterId, MsiMessage)>) {
        self.0.write().expect("an earlier check has failed").written[usize::from(index)] = entry;
    }

    /// The guest invalidates entries. The functions behind the stage must be invalidated next.
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
