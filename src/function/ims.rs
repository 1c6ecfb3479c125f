//! A function's IMS slots as an array in a BAR. The embedder chooses the BAR.

use super::InterruptFunction;
use crate::access::lanes;
use crate::backend::Cookie;
use crate::delivery::Vector;
use crate::domain::{DeviceDomain, Domain, SoftwareDomain};
use crate::ims::{CONTROL, ControlFormat, SlotArray, SlotArrayLayout};
use crate::registers::Registers;

/// The IMS of one PCI function: an array of slots in a BAR.
pub type ImsFunction = InterruptFunction<SlotArray, DeviceDomain>;
/// The IMS of a device model inside the VMM, which triggers its vectors itself.
pub type SoftwareIms = InterruptFunction<SlotArray, SoftwareDomain>;

impl<C: Registers, D: Domain> InterruptFunction<C, D> {
    /// The cookie that a vector's interrupts carry beside their message.
    pub fn cookie(&self, vector: Vector) -> Option<Cookie> {
        self.registers.cookie(vector)
    }
}

impl<D: Domain> InterruptFunction<SlotArray, D> {
    /// The number of slots, and their control format.
    pub fn layout(&self) -> &SlotArrayLayout {
        self.registers.layout()
    }

    /// Reads the slots. `offset` is in bytes from the first slot. If their format has a pending bit, it shows
    /// whether an interrupt waits. Reading clears nothing.
    pub fn read_slots(&self, offset: u64, data: &mut [u8]) {
        self.registers.read_slots(offset, data);
        self.sync_shown_by_table(offset, data.len());
        with_pending(&self.domain, self.layout().control, offset, data);
    }

    /// Writes the slots. `offset` is in bytes from the first slot.
    ///
    /// Interrupts meanwhile: none is lost. When this returns, no interrupt is delivered for a masked slot,
    /// nor on a slot's old message. A slot without a mask bit is written in parts, as on hardware. Between
    /// two writes its message is half old and half new.
    pub fn write_slots(&self, offset: u64, data: &[u8]) {
        self.change(|slots| slots.write_slots(offset, data));
        self.sync_shown_by_table(offset, data.len());
    }
}

/// Sets the pending bits in slots that have been read.
pub(super) fn with_pending(domain: &dyn Domain, format: ControlFormat, offset: u64, data: &mut [u8]) {
    let pending_bit = format.pending_bit();
    if pending_bit == 0 {
        return;
    }
    let mut group = None;
    for lane in lanes(offset, data.len()).filter(|lane| lane.dword % 4 == CONTROL) {
        let Ok(slot) = u32::try_from(lane.dword / 4) else { continue };
        let bits = match group {
            Some((last, bits)) if last == slot / 64 => bits,
            _ => domain.pending(slot / 64),
        };
        group = Some((slot / 64, bits));
        if bits.wrapping_shr(slot % 64) & 1 == 1 {
            lane.read(lane.merge(0, data) | pending_bit, data);
        }
    }
}
