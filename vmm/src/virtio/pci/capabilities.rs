//! The function's configuration space: a type 0 header, a capability for each structure in the BAR (virtio 1.2 §4.1.4),
//! MSI-X, and a window through which the structures are reached without the BAR (§4.1.4.9). Plain tables.

use super::layout::{BAR, BAR_BYTES, DOORBELL_BYTES, Structure};
use crate::pci::bar::{COMMAND, COMMAND_MEMORY};
use crate::pci::{Bar, Bars, ConfigSpace, Register};
use crate::virtio::device::Identity;

/// Command: the function may issue requests.
pub const COMMAND_BUS_MASTER: u32 = 1 << 2;
/// Command: no INTx, which it has not anyway.
const COMMAND_INTX_DISABLE: u32 = 1 << 10;
/// Status: there is a list of capabilities.
const STATUS_CAPABILITIES: u32 = 1 << 4;

const VENDOR: u32 = 0x1af4;
/// Device IDs of the modern interface: this, and the virtio device ID (virtio 1.2 §4.1.2).
const FIRST_DEVICE: u32 = 0x1040;
const SUBSYSTEM: u32 = 0x1100;
const VENDOR_SPECIFIC: u8 = 0x09;
const MSIX: u8 = 0x11;
const MSIX_BYTES: u8 = 12;
const CFG_TYPE_PCI: u8 = 5;
const FIRST_CAPABILITY: u8 = 0x40;
const POINTER: u16 = 0x34;

/// Bytes of a capability of a structure, and of one with a register of its own behind that.
const STRUCTURE_BYTES: u8 = 16;
const EXTENDED_BYTES: u8 = 20;

const NONE: Register =
    Register { offset: 0, width: 4, reset: 0, emulated: u32::MAX, writable: 0, forwarded: 0 };

/// Configuration space, and where its moving parts are.
#[derive(Debug)]
pub struct Capabilities {
    /// The registers after power-on, the BAR without an address.
    pub space: ConfigSpace,
    /// The BAR.
    pub bars: Bars,
    /// The MSI-X capability.
    pub msix: u16,
    /// The window.
    pub window: Window,
}

/// The PCI configuration access capability: which bytes of which BAR the driver means.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    at: u16,
}

impl Window {
    /// Bytes of configuration space that stand for those of the BAR.
    pub const BYTES: u64 = 4;

    /// Where they are.
    #[must_use]
    pub fn data(self) -> u16 {
        self.at.saturating_add(STRUCTURE_BYTES.into())
    }

    /// Where they lead: an offset in the BAR, and how many bytes. Nowhere if the driver asks for another width than 1,
    /// 2 or 4, or for what is not in the BAR.
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
    /// Those of a device with so many queues and bytes of configuration.
    #[must_use]
    pub fn new(identity: Identity, queues: u16, config: usize) -> Self {
        let mut space = ConfigSpace::emulated();
        let bars = Bars::new([Bar::new(0, BAR_BYTES), None, None, None, None, None]);
        let device = FIRST_DEVICE.saturating_add(identity.id.into());
        let writable = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE;
        space.define(
            0,
            &[
                Register { reset: device << 16 | VENDOR, ..NONE },
                Register { offset: COMMAND, width: 2, writable, ..NONE },
                Register { offset: 0x06, width: 2, reset: STATUS_CAPABILITIES, ..NONE },
                // Revision 1: no legacy interface (virtio 1.2 §4.1.2.1).
                Register { offset: 0x08, reset: identity.class << 8 | 1, ..NONE },
                Register { offset: 0x0c, width: 1, writable: 0xff, ..NONE },
                Register { offset: 0x2c, reset: SUBSYSTEM << 16 | VENDOR, ..NONE },
                // Interrupt line is a scratch register. Interrupt pin stays 0.
                Register { offset: 0x3c, width: 1, writable: 0xff, ..NONE },
            ],
        );
        bars.define(&mut space);
        let mut list = List { space, next: FIRST_CAPABILITY, pointer: POINTER };
        for structure in Structure::ALL {
            let len = structure.len(queues, config);
            let (bytes, multiplier) = match structure {
                Structure::Notify => (EXTENDED_BYTES, DOORBELL_BYTES),
                _ => (STRUCTURE_BYTES, 0),
            };
            if len > 0 {
                let at = list.structure(structure.cfg_type(), bytes);
                let start = u32::try_from(structure.page().start).unwrap_or_default();
                list.fix(at, 4, BAR.into());
                list.fix(at, 8, start);
                list.fix(at, 12, len);
                if bytes == EXTENDED_BYTES {
                    list.fix(at, 16, multiplier);
                }
            }
        }
        let window = Window { at: list.structure(CFG_TYPE_PCI, EXTENDED_BYTES) };
        let scratch = |offset, width| Register { offset, width, writable: u32::MAX, ..NONE };
        list.space.define(window.at, &[scratch(4, 1), scratch(8, 4), scratch(12, 4), scratch(16, 4)]);
        let msix = list.capability(MSIX, MSIX_BYTES);
        Self { space: list.space, bars, msix, window }
    }
}

/// The list of capabilities while it grows.
struct List {
    space: ConfigSpace,
    next: u8,
    /// Where the pointer to the next one is.
    pointer: u16,
}

impl List {
    fn capability(&mut self, id: u8, bytes: u8) -> u16 {
        let at = u16::from(self.next);
        self.space.fix(self.pointer, &[self.next]);
        self.space.fix(at, &[id]);
        self.pointer = at.saturating_add(1);
        self.next = self.next.saturating_add(bytes).next_multiple_of(4);
        at
    }

    fn structure(&mut self, cfg_type: u8, bytes: u8) -> u16 {
        let at = self.capability(VENDOR_SPECIFIC, bytes);
        self.space.fix(at.saturating_add(2), &[bytes, cfg_type]);
        at
    }

    fn fix(&mut self, at: u16, offset: u16, value: u32) {
        self.space.fix(at.saturating_add(offset), &value.to_le_bytes());
    }
}
