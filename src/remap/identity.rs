//! The stage that changes no message: for a guest that has turned remapping off, or never had it.
//!
//! It may still allow a function less than its device can do: an embedder's policy, in the one place where what a
//! function can have is asked.

use super::Stage;
use crate::backend::Capabilities;
use crate::interrupt::RequesterId;
use crate::message::MsiMessage;
use crate::refusal::Fault;

/// Every message is what it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    allowed: Capabilities,
}

impl Identity {
    /// Functions behind it can do no more than `allowed`.
    pub fn allowing(allowed: Capabilities) -> Self {
        Self { allowed }
    }
}

impl Default for Identity {
    /// No limit.
    fn default() -> Self {
        Self::allowing(Capabilities::UNLIMITED)
    }
}

impl Stage for Identity {
    fn translate(&self, _: RequesterId, message: MsiMessage) -> Result<MsiMessage, Fault> {
        Ok(message)
    }

    fn capabilities(&self, _: RequesterId) -> Capabilities {
        self.allowed
    }
}
