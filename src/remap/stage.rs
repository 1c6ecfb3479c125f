//! The interface of a remapping unit: what one function's message is now.

use crate::backend::Capabilities;
use crate::interrupt::RequesterId;
use crate::message::MsiMessage;
use crate::refusal::Fault;

/// A remapping unit, of one VM.
pub trait Stage: Send + Sync {
    /// What `message` of `requester` is, by the guest's table as of the last invalidation: another message,
    /// which what is behind this stage checks in its turn. `message` is as the guest wrote it, in whichever
    /// format.
    ///
    /// It is asked whenever a vector may change, not when an interrupt comes, and under a domain's lock: keep it
    /// short, and do not call a domain.
    ///
    /// # Errors
    /// What is wrong with the message or its entry. The vector is held: what the device raises waits, where a
    /// real unit would drop it.
    fn translate(&self, requester: RequesterId, message: MsiMessage) -> Result<MsiMessage, Fault>;

    /// What the vectors of `requester` can do behind this stage: one that has no entries in a row for the messages of
    /// MSI, say, can do one of them only. It stays the same for the stage's life.
    fn capabilities(&self, requester: RequesterId) -> Capabilities {
        let _ = requester;
        Capabilities::UNLIMITED
    }
}
