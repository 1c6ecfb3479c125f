//! The stage that changes nothing: for a guest that has turned remapping off, or never had it.

use super::Stage;
use crate::message::MsiMessage;
use crate::refusal::Fault;
use crate::requester::RequesterId;

/// Every message is what it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity;

impl Stage for Identity {
    fn translate(&self, _: RequesterId, message: MsiMessage) -> Result<MsiMessage, Fault> {
        Ok(message)
    }
}
