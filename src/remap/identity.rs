//! A stage that changes no message, for a guest that has no remapping unit or has turned it off.
//!
//! It can still restrict the features of the functions behind it, as a policy of the embedder.

use super::Stage;
use crate::backend::Capabilities;
use crate::interrupt::RequesterId;
use crate::message::MsiMessage;
use crate::refusal::Fault;

/// Translates every message to itself.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    allowed: Capabilities,
}

impl Identity {
    /// Functions behind the stage have only the features in `allowed`.
    pub fn allowing(allowed: Capabilities) -> Self {
        Self { allowed }
    }
}

impl Default for Identity {
    /// Restricts nothing.
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
