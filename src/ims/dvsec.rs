//! Intel's Scalable IOV capability, by which a guest learns that a device has an IMS. It is a Designated
//! Vendor-Specific Extended Capability in extended configuration space (PCIe r6 §7.9.6; Intel Scalable I/O
//! Virtualization specification, the "Designated Vendor-Specific Extended Capability" of its device chapter).
//! Linux finds it with `pci_find_dvsec_capability(pdev, 0x8086, 5)`.
//!
//! Owns its registers. Invariant: the capability exists only if every parent of the function supports an IMS.
//! No I/O, no lock.

use bitfield_struct::bitfield;

use crate::access::lanes;
use crate::backend::{Capabilities, Unsupported};

/// Offset 0x00, PCIe r6 §7.9.6.1. Read-only.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ExtendedHeader {
    /// Bits 15:0: 0x0023, a Designated Vendor-Specific Extended Capability.
    pub id: u16,
    /// Bits 19:16: 1.
    #[bits(4)]
    pub version: u8,
    /// Bits 31:20: the offset of the next capability. The embedder sets it.
    #[bits(12)]
    pub next: u16,
}

/// Offset 0x04, Header 1, PCIe r6 §7.9.6.2. Read-only.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct DvsecHeader {
    /// Bits 15:0: 0x8086, Intel.
    pub vendor: u16,
    /// Bits 19:16: 1.
    #[bits(4)]
    pub revision: u8,
    /// Bits 31:20: the length of the capability, 0x18 bytes.
    #[bits(12)]
    pub length: u16,
}

/// Offset 0x08, Header 2 and the two fields after it, PCIe r6 §7.9.6.3. Read-only.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct SiovHeader {
    /// Bits 15:0: 5, Scalable IOV.
    pub id: u16,
    /// Bits 23:16: Function Dependency Link, the function that must be used together with this one. A
    /// function without a dependency names itself, which is 0 for function 0.
    pub dependency: u8,
    /// Bits 31:24: Flags. Bit 0: all functions of a dependency list must be used in the same way.
    pub flags: u8,
}

/// Offsets 0x0c and 0x10: a set of page sizes. Bit n stands for 2ⁿ⁺¹² bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSizes(u32);

impl PageSizes {
    /// 4 KiB only, which every device supports.
    pub const SIZE_4K: Self = Self(1);

    /// `None` if `sizes` lacks 4 KiB, the page size after reset.
    pub const fn new(sizes: u32) -> Option<Self> {
        if sizes & 1 == 1 { Some(Self(sizes)) } else { None }
    }

    /// The value of the register.
    pub const fn into_bits(self) -> u32 {
        self.0
    }
}

/// Offset 0x14, Capabilities. Read-only.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct SiovCapabilities {
    /// Bit 0: the device has an IMS.
    pub ims: bool,
    #[bits(31)]
    __: u32,
}

/// Designated Vendor-Specific Extended Capability.
const DVSEC: u16 = 0x0023;
const INTEL: u16 = 0x8086;
const SCALABLE_IOV: u16 = 5;

/// The index of the DWORD System Page Size.
const SYSTEM_PAGE_SIZE: usize = 4;

/// The capability's registers.
///
/// An embedder with a configuration space of its own can use [`SiovDvsec::registers`] and
/// [`SiovDvsec::WRITABLE`] instead of forwarding accesses.
///
/// ```
/// use vm_msi::backend::{Capabilities, Unsupported};
/// use vm_msi::ims::{PageSizes, SiovDvsec};
///
/// let parents = Capabilities::UNLIMITED; // the router's, and the backend's, if any
/// let mut dvsec = SiovDvsec::try_new(parents, PageSizes::SIZE_4K).unwrap();
/// let mut capabilities = [0; 4];
/// dvsec.read_config(0x14, &mut capabilities);
/// assert_eq!(capabilities, [1, 0, 0, 0]);
///
/// let refused = SiovDvsec::try_new(Capabilities { ims: false, ..parents }, PageSizes::SIZE_4K);
/// assert_eq!(refused, Err(Unsupported::Ims));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiovDvsec {
    registers: [u32; 6],
}

impl SiovDvsec {
    /// Length of the capability in bytes.
    pub const LENGTH: u16 = 0x18;

    /// The writable bits of each DWORD. Only System Page Size has any.
    pub const WRITABLE: [u32; 6] = {
        let mut writable = [0; 6];
        writable[SYSTEM_PAGE_SIZE] = u32::MAX;
        writable
    };

    /// Whether an extended capability that begins with these DWORDs is a Scalable IOV capability. An embedder
    /// must hide such a capability of a physical device. It announces an IMS that nothing emulates, and a
    /// message that a guest writes there is not a message of the host.
    pub fn is_at([header, dvsec, siov]: [u32; 3]) -> bool {
        let (header, dvsec) = (ExtendedHeader::from_bits(header), DvsecHeader::from_bits(dvsec));
        header.id() == DVSEC && dvsec.vendor() == INTEL && SiovHeader::from_bits(siov).id() == SCALABLE_IOV
    }

    /// The capability of a function whose parents together support `parents`. The check is that of
    /// [`InterruptFunction::try_new`](crate::InterruptFunction::try_new), so a function that was refused
    /// there is refused here.
    ///
    /// # Errors
    /// [`Unsupported::Ims`]: the guest must not be shown the capability.
    pub fn try_new(parents: Capabilities, supported: PageSizes) -> Result<Self, Unsupported> {
        if !parents.ims {
            return Err(Unsupported::Ims);
        }
        let header = ExtendedHeader::new().with_id(DVSEC).with_version(1);
        let dvsec = DvsecHeader::new().with_vendor(INTEL).with_revision(1).with_length(Self::LENGTH);
        let registers = [
            header.into_bits(),
            dvsec.into_bits(),
            SiovHeader::new().with_id(SCALABLE_IOV).into_bits(),
            supported.into_bits(),
            PageSizes::SIZE_4K.into_bits(),
            SiovCapabilities::new().with_ims(true).into_bits(),
        ];
        Ok(Self { registers })
    }

    /// The present value of each DWORD.
    pub fn registers(&self) -> [u32; 6] {
        self.registers
    }

    /// The page size that software has set, in bytes: a power of two, at least 4096. `None` if software has
    /// set no size, several sizes, or an unsupported size. The specification leaves the effect of these
    /// undefined.
    pub fn page_size(&self) -> Option<u64> {
        let [_, _, _, supported, system, _] = self.registers;
        let is_supported = system.is_power_of_two() && system & supported != 0;
        is_supported.then(|| u64::from(system).wrapping_shl(12))
    }

    /// Reads. `offset` is in bytes from the capability's ID. The pointer to the next capability reads 0,
    /// because the embedder owns it. Bytes beyond the capability read 0.
    pub fn read_config(&self, offset: u16, data: &mut [u8]) {
        for lane in lanes(offset.into(), data.len()) {
            let register = usize::try_from(lane.dword).ok().and_then(|dword| self.registers.get(dword));
            lane.read(register.copied().unwrap_or_default(), data);
        }
    }

    /// Writes. Only System Page Size is writable. It takes any bits.
    pub fn write_config(&mut self, offset: u16, data: &[u8]) {
        for lane in lanes(offset.into(), data.len()) {
            let Ok(dword) = usize::try_from(lane.dword) else { continue };
            if let Some((register, writable)) = self.registers.get_mut(dword).zip(Self::WRITABLE.get(dword)) {
                *register = *register & !writable | lane.merge(*register, data) & writable;
            }
        }
    }

    /// Resets the function: System Page Size is 4 KiB again.
    pub fn reset(&mut self) {
        let [.., system, _] = &mut self.registers;
        *system = PageSizes::SIZE_4K.into_bits();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dvsec(sizes: u32) -> SiovDvsec {
        SiovDvsec::try_new(Capabilities::UNLIMITED, PageSizes::new(sizes).unwrap()).unwrap()
    }

    #[test]
    fn the_image_is_intels_with_an_ims() {
        // As Intel's emulation of a DSA shows it, except for the last bit: the emulated DSA has no IMS.
        let image: [u64; 3] = [0x0181_8086_0001_0023, 0x0000_0001_0000_0005, 0x0000_0001_0000_0001];
        let mut bytes = [0xee; 32];
        dvsec(1).read_config(0, &mut bytes);
        assert_eq!(bytes[..24], image.map(u64::to_le_bytes).concat());
        assert_eq!(bytes[24..], [0; 8], "beyond its length");
        let registers = dvsec(1).registers().map(u32::to_le_bytes).concat();
        assert_eq!(registers, bytes[..24]);
    }

    #[test]
    fn each_field_has_its_bits_and_no_others() {
        for bit in 0..32 {
            let bits = 1 << bit;
            let header = ExtendedHeader::from_bits(bits);
            let [low, high] = [bits as u16, (bits >> 20) as u16];
            assert_eq!((header.id(), header.next(), header.into_bits()), (low, high, bits));
            assert_eq!(header.version(), (bits >> 16 & 0xf) as u8);
            let dvsec = DvsecHeader::from_bits(bits);
            assert_eq!((dvsec.vendor(), dvsec.length(), dvsec.into_bits()), (low, high, bits));
            assert_eq!(dvsec.revision(), (bits >> 16 & 0xf) as u8);
            let siov = SiovHeader::from_bits(bits);
            let [dependency, flags] = [(bits >> 16) as u8, (bits >> 24) as u8];
            assert_eq!((siov.id(), siov.dependency(), siov.flags()), (low, dependency, flags));
            assert_eq!(siov.into_bits(), bits);
            assert_eq!(SiovCapabilities::from_bits(bits).ims(), bit == 0);
        }
    }

    #[test]
    fn software_writes_the_system_page_size_and_nothing_else() {
        let mut dvsec = dvsec(0b11);
        dvsec.write_config(0, &[0xff; 32]);
        let mut bytes = [0; 24];
        dvsec.read_config(0, &mut bytes);
        let expected = [0x0001_0023, 0x0181_8086, 5, 3, u32::MAX, 1];
        assert_eq!(bytes[..], expected.map(u32::to_le_bytes).concat());
        assert_eq!(dvsec.page_size(), None, "several sizes are none");
        // The same by bytes as by DWORDs.
        for (offset, byte) in (0x10..).zip(2u32.to_le_bytes()) {
            dvsec.write_config(offset, &[byte]);
        }
        assert_eq!(dvsec.page_size(), Some(8192));
        dvsec.write_config(0x10, &4u32.to_le_bytes());
        assert_eq!(dvsec.page_size(), None, "16 KiB are not supported");
        dvsec.write_config(0x10, &[0; 4]);
        assert_eq!(dvsec.page_size(), None);
        dvsec.reset();
        assert_eq!((dvsec.page_size(), dvsec), (Some(4096), self::dvsec(0b11)));
    }

    #[test]
    fn every_device_has_pages_of_4_kib() {
        assert_eq!((PageSizes::new(0), PageSizes::new(2)), (None, None));
        assert_eq!(PageSizes::new(1), Some(PageSizes::SIZE_4K));
    }
}
