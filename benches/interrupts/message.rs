//! The messages that both sides of a benchmark use.

/// APICs that the vectors are spread over, 200 vectors on each.
pub(crate) const APICS: u8 = 11;
const VECTORS_OF_AN_APIC: usize = 200;

/// A message that no other has: address and data.
pub(crate) fn message(index: usize) -> (u32, u32) {
    let (apic, vector) = (index / VECTORS_OF_AN_APIC, index % VECTORS_OF_AN_APIC);
    (0xfee0_0000 | (apic as u32) << 12, 0x24 + vector as u32)
}
