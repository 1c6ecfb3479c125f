//! The interface to a remapping unit: the present translation of a function's message.

use crate::backend::Capabilities;
use crate::interrupt::RequesterId;
use crate::message::MsiMessage;
use crate::refusal::Fault;

/// A remapping unit of one VM.
pub trait Stage: Send + Sync {
    /// Translates a message of `requester` by the guest's table as of the last invalidation. The result is a
    /// message for the next router or stage, which checks it. `message` is as the guest wrote it, in either
    /// format.
    ///
    /// The domain calls this when a vector may change, not for each interrupt. It holds its lock: be quick,
    /// and do not call a domain.
    ///
    /// # Errors
    /// The message or its table entry is invalid. The vector is held, and its interrupts wait. A real unit
    /// would drop them.
    fn translate(&self, requester: RequesterId, message: MsiMessage) -> Result<MsiMessage, Fault>;

    /// The features of the vectors of `requester` behind this stage. A stage that has no blocks of
    /// consecutive entries for multi-message MSI, for example, clears [`Capabilities::multi_message`]. The
    /// answer must not change.
    fn capabilities(&self, requester: RequesterId) -> Capabilities {
        let _ = requester;
        Capabilities::UNLIMITED
    }
}
