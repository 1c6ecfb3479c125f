//! The effect of a guest's message in the VM, an interrupt or a write to memory, and the IDs of the function
//! that sends it.
//!
//! Plain values. A [`Router`](crate::Router) makes them from [messages](MsiMessage), because only the router
//! knows which messages its interrupt controllers accept.

use std::fmt;

use crate::apic::{ApicMessage, DestinationIds, InvalidMessage};
use crate::message::MsiMessage;

/// A requester ID: the bus (bits 15:8), device (7:3) and function (2:0) number of the function that sends a
/// message.
///
/// ```
/// use vm_msi::RequesterId;
///
/// assert_eq!(RequesterId(0x0a1b).to_string(), "0a:03.3");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct RequesterId(pub u16);

impl fmt::Display for RequesterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.0 >> 8, self.0 >> 3 & 0x1f, self.0 & 7)
    }
}

/// The ID by which an interrupt controller distinguishes devices. Only the GICv3 ITS of arm64 does
/// (KVM_MSI_VALID_DEVID). For a PCI function it consists of segment and requester ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct DeviceId(pub u32);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A message that the VM's interrupt controllers accept, with the ID of the sending device if they need it.
///
/// The router that makes it has checked the message. An unchecked message of a guest must not enter the
/// routing table, because KVM refuses the whole table for one bad entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interrupt {
    message: MsiMessage,
    device: Option<DeviceId>,
}

impl Interrupt {
    /// For routers. `message` must have been checked, and be an interrupt.
    pub fn new(message: MsiMessage) -> Self {
        Self { message, device: None }
    }

    /// The same interrupt, sent by `device`.
    #[must_use]
    pub fn sent_by(self, device: DeviceId) -> Self {
        Self { device: Some(device), ..self }
    }

    /// Address and data, in the form that the interrupt controllers get.
    pub fn message(self) -> MsiMessage {
        self.message
    }

    /// The device that sends it, if the interrupt controllers distinguish devices.
    pub fn device(self) -> Option<DeviceId> {
        self.device
    }
}

/// Neighbours on x86, for prefetching routes. An interrupt with a device ID has no neighbours.
impl Interrupt {
    fn apic(self) -> Option<ApicMessage> {
        if self.device.is_some() {
            None
        } else {
            ApicMessage::with_ids(self.message, DestinationIds::Bits32).ok()
        }
    }

    /// See [`ApicMessage::with_vector`].
    pub(crate) fn with_vector(self, vector: u8) -> Option<Self> {
        self.apic()?.with_vector(vector).map(Self::from)
    }

    /// See [`ApicMessage::next_destination`].
    pub(crate) fn next_destination(self, apics: u32) -> Option<Self> {
        self.apic()?.next_destination(apics).map(Self::from)
    }
}

impl From<ApicMessage> for Interrupt {
    fn from(message: ApicMessage) -> Self {
        Self::new(message.message())
    }
}

impl fmt::Display for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device {
            None => self.message.fmt(f),
            Some(device) => write!(f, "{} of device {device}", self.message),
        }
    }
}

/// The effect of an unmasked vector's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// It interrupts a vCPU.
    Interrupt(Interrupt),
    /// Its address belongs to no interrupt controller. The device writes the data DWORD to guest memory. The
    /// network drivers of iPXE poll such a DWORD.
    Memory(MsiMessage),
}

impl Target {
    /// The effect of a message in a VM whose interrupt controllers are local APICs. An address outside of
    /// their range is memory.
    ///
    /// # Errors
    /// The message addresses APICs, but none accepts it.
    pub fn for_apics(message: MsiMessage, ids: DestinationIds) -> Result<Self, InvalidMessage> {
        match ApicMessage::with_ids(message, ids) {
            Ok(message) => Ok(Self::Interrupt(message.into())),
            Err(InvalidMessage::Address(message)) => Ok(Self::Memory(message)),
            Err(invalid) => Err(invalid),
        }
    }

    /// The message as it leaves the function, after any remapping.
    pub fn message(self) -> MsiMessage {
        match self {
            Self::Interrupt(interrupt) => interrupt.message(),
            Self::Memory(message) => message,
        }
    }
}
