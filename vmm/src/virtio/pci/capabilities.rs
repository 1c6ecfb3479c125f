//! The function's configuration space: a type 0 header, a capability for each structure in the BAR (virtio 1.2
//! §4.1.4), MSI-X, and the PCI configuration access window (§4.1.4.9). Plain tables.

use super::layout::{BAR, BAR_BYTES, DOORBELL_BYTES, Structure};
use crate::pci::{Bar, Bars, CapabilityList, ConfigSpace, Header, MsixCapability, Register};
use crate::virtio::device::Identity;

/// The first device ID of the modern interface. The virtio device ID is added (virtio 1.2 §4.1.2).
const FIRST_DEVICE: u16 = 0x1040;
/// Revision of a device without legacy interface (virtio 1.2 §4.1.2.1).
const REVISION: u8 = 1;
const VENDOR_SPECIFIC: u8 = 0x09;
const CFG_TYPE_PCI: u8 = 5;

/// Size of a structure's capability, without and with an extra register.
const STRUCTURE_BYTES: u8 = 16;
const EXTENDED_BYTES: u8 = 20;

/// Configuration space and the offsets of its active parts.
#[derive(Debug)]
pub struct Capabilities {
    /// The registers at power-on. The BAR has no address.
    pub space: ConfigSpace,
    /// The BAR.
    pub bars: Bars,
    /// The MSI-X capability.
    pub msix: MsixCapability,
    /// The window.
    pub window: Window,
}

/// The PCI configuration access capability: selects bytes of a BAR.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    at: u16,
}

impl Window {
    /// Size of the window's data register.
    pub const BYTES: u64 = 4;

    /// Offset of the data register.
    #[must_use]
    pub fn data(self) -> u16 {
        self.at.saturating_add(STRUCTURE_BYTES.into())
    }

    /// The selected bytes: offset in the BAR and length. `None` if the length is not 1, 2 or 4, or the bytes are not
    /// in the BAR.
    #[must_use]
    pub fn target(self, space: &ConfigSpace) -> Option<(u64, usize)> {
        let register = |offset: u16, width| space.value(self.at.saturating_add(offset), width);
        let len = register(12, 4);
        let offset = u64::from(register(8, 4));
        let is_inside = offset.checked_add(len.into())? <= BAR_BYTES;
        (register(4, 1) == u32::from(BAR) && matches!(len, 1 | 2 | 4) && is_inside).then_some(())?;
        Some((offset, usize::try_from(len).ok()?))
    }
}

impl Capabilities {
    /// The configuration space of a device with this number of queues and configuration bytes.
    #[must_use]
    pub fn new(identity: &Identity, queues: u16, config: usize) -> Self {
        let bars = Bars::new([Bar::new(0, BAR_BYTES), None, None, None, None, None]);
        let device = FIRST_DEVICE.saturating_add(identity.id);
        let header = Header { device, class: identity.class, revision: REVISION };
        let mut list = CapabilityList::new(header.space(&bars));
        for structure in Structure::ALL {
            let len = structure.len(queues, config);
            let (bytes, multiplier) = match structure {
                Structure::Notify => (EXTENDED_BYTES, DOORBELL_BYTES),
                _ => (STRUCTURE_BYTES, 0),
            };
            if len > 0 {
                let at = add(&mut list, structure.cfg_type(), bytes);
                let start = u32::try_from(structure.page().start).unwrap_or_default();
                list.fix(at, 4, &[BAR]);
                list.fix(at, 8, &start.to_le_bytes());
                list.fix(at, 12, &len.to_le_bytes());
                if bytes == EXTENDED_BYTES {
                    list.fix(at, 16, &multiplier.to_le_bytes());
                }
            }
        }
        let window = Window { at: add(&mut list, CFG_TYPE_PCI, EXTENDED_BYTES) };
        let scratch = |offset, width| Register {
            offset,
            width,
            emulated: u32::MAX,
            writable: u32::MAX,
            ..Register::default()
        };
        list.define(window.at, &[scratch(4, 1), scratch(8, 4), scratch(12, 4), scratch(16, 4)]);
        let msix = MsixCapability::add(&mut list);
        Self { space: list.finish(), bars, msix, window }
    }
}

/// Adds the capability of a structure (virtio 1.2 §4.1.4).
fn add(list: &mut CapabilityList, cfg_type: u8, bytes: u8) -> u16 {
    let at = list.add(VENDOR_SPECIFIC, bytes);
    list.fix(at, 2, &[bytes, cfg_type]);
    at
}
