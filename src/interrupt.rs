//! A guest's message as the VM sees it: an interrupt or a plain write to memory, and the function that sends it.
//!
//! Plain values. A [`Router`](crate::Router) makes them out of [messages](MsiMessage), since only the router knows what its
//! interrupt controllers take.

use std::fmt;

use crate::apic::{ApicMessage, DestinationIds, InvalidMessage};
use crate::message::MsiMessage;

/// A requester ID: bus (bits 15:8), device (7:3) and function (2:0) of the function that sends.
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

/// The number by which an interrupt controller tells devices apart, where it does: the GICv3 ITS on arm64 (KVM_MSI_VALID_DEVID).
/// For a PCI function it is made of segment and requester ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct DeviceId(pub u32);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A message that the VM's interrupt controllers take, with the device that sends it where they ask for that.
///
/// The router that made it has checked it: a guest's message must not enter the routing table unchecked, because one bad entry
/// makes KVM refuse the whole table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interrupt {
    message: MsiMessage,
    device: Option<DeviceId>,
}

impl Interrupt {
    /// For routers: `message` was checked and is an interrupt.
    pub fn new(message: MsiMessage) -> Self {
        Self { message, device: None }
    }

    /// The same interrupt, sent by `device`.
    #[must_use]
    pub fn sent_by(self, device: DeviceId) -> Self {
        Self { device: Some(device), ..self }
    }

    /// Address and data, as the interrupt controllers get them.
    pub fn message(self) -> MsiMessage {
        self.message
    }

    /// The device that sends it, where the interrupt controllers ask for that.
    pub fn device(self) -> Option<DeviceId> {
        self.device
    }
}

/// Neighbours on x86, for prefetching routes. An interrupt with a device ID has none.
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
    /// Its address belongs to no interrupt controller. The device writes the data DWORD to the guest's memory (iPXE's network
    /// drivers poll such a DWORD).
    Memory(MsiMessage),
}

impl Target {
    /// The effect of a message if the interrupt controllers are local APICs. An address outside their range is memory.
    ///
    /// # Errors
    /// The message addresses APICs, and none takes it.
    pub fn for_apics(message: MsiMessage, ids: DestinationIds) -> Result<Self, InvalidMessage> {
        match ApicMessage::with_ids(message, ids) {
            Ok(message) => Ok(Self::Interrupt(message.into())),
            Err(InvalidMessage::Address(message)) => Ok(Self::Memory(message)),
            Err(invalid) => Err(invalid),
        }
    }

    /// The message, as it leaves the function (behind any remapping).
    pub fn message(self) -> MsiMessage {
        match self {
            Self::Interrupt(interrupt) => interrupt.message(),
            Self::Memory(message) => message,
        }
    }
}
