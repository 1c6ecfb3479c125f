//! The format of a slot's control DWORD: the position of its mask bit, of its pending bit and of the cookie
//! of its interrupts.
//!
//! A format is checked when it is made, and immutable afterwards. Invariant: no two fields share a bit. Bits
//! of no field are reserved: they read 0 and ignore writes.

use crate::backend::Cookie;

/// A bit of a DWORD: 0 to 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bit(u8);

impl Bit {
    /// `None` above 31.
    pub const fn new(position: u8) -> Option<Self> {
        if position < 32 { Some(Self(position)) } else { None }
    }

    const fn mask(self) -> u32 {
        1u32.wrapping_shl(self.0 as u32)
    }
}

/// The value of a mask bit that masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskedWhen {
    /// 1 masks, as in MSI-X.
    Set,
    /// 0 masks: the bit enables the slot.
    Clear,
}

/// A slot's mask bit. Each slot is masked after reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskBit {
    /// The bit's position.
    pub bit: Bit,
    /// The value that masks.
    pub masked_when: MaskedWhen,
}

/// The cookie field: a number that the slot's interrupts carry, such as a PASID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieField {
    /// The interrupts carry the number while this bit is set.
    pub enable: Bit,
    /// The lowest bit of the number.
    pub lowest: Bit,
    /// The highest bit of the number.
    pub highest: Bit,
}

impl CookieField {
    /// The bits of the number.
    const fn value(self) -> u32 {
        let below = self.lowest.mask().wrapping_sub(1);
        let up_to = self.highest.mask().wrapping_sub(1) | self.highest.mask();
        up_to & !below
    }
}

/// Why a control format is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Fields share bits.
    #[error("bits {bits:#x} are in more than one field")]
    Overlap {
        /// The shared bits.
        bits: u32,
    },
    /// A cookie's lowest bit is above its highest.
    #[error("the cookie's field has no bits")]
    EmptyCookie,
}

/// The format of a slot's control DWORD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFormat {
    mask: Option<MaskBit>,
    pending: Option<Bit>,
    cookie: Option<CookieField>,
}

impl ControlFormat {
    /// The format of Intel's Data Streaming Accelerator: bit 0 masks, bit 3 says that the slot has a PASID,
    /// and bits 31:12 are the PASID. Bit 1 as the pending bit is this crate's own definition.
    pub const DSA: Self = Self {
        mask: Some(MaskBit { bit: Bit(0), masked_when: MaskedWhen::Set }),
        pending: Some(Bit(1)),
        cookie: Some(CookieField { enable: Bit(3), lowest: Bit(12), highest: Bit(31) }),
    };

    /// A format with these fields. Without a mask bit, a slot signals while it has a message. Without a
    /// pending bit, the guest cannot see waiting interrupts.
    ///
    /// # Errors
    /// [`FormatError`] if fields share bits or the cookie has none.
    pub fn new(
        mask: Option<MaskBit>,
        pending: Option<Bit>,
        cookie: Option<CookieField>,
    ) -> Result<Self, FormatError> {
        let format = Self { mask, pending, cookie };
        let (value, enable) = cookie.map_or((0, 0), |cookie| (cookie.value(), cookie.enable.mask()));
        if cookie.is_some() && value == 0 {
            return Err(FormatError::EmptyCookie);
        }
        let mut taken = 0;
        for field in [format.mask_bit(), format.pending_bit(), enable, value] {
            if taken & field != 0 {
                return Err(FormatError::Overlap { bits: taken & field });
            }
            taken |= field;
        }
        Ok(format)
    }

    /// Whether slots have a mask bit.
    pub fn can_mask(self) -> bool {
        self.mask.is_some()
    }

    /// The pending bit, or 0 if there is none.
    pub(crate) fn pending_bit(self) -> u32 {
        self.pending.map_or(0, Bit::mask)
    }

    fn mask_bit(self) -> u32 {
        self.mask.map_or(0, |mask| mask.bit.mask())
    }

    /// After reset: masked, and without a cookie.
    pub(super) fn reset(self) -> u32 {
        match self.mask {
            Some(MaskBit { bit, masked_when: MaskedWhen::Set }) => bit.mask(),
            Some(MaskBit { masked_when: MaskedWhen::Clear, .. }) | None => 0,
        }
    }

    /// The control DWORD after a write of `value`. The pending bit is read-only.
    pub(super) fn written(self, value: u32) -> u32 {
        let cookie = self.cookie.map_or(0, |cookie| cookie.enable.mask() | cookie.value());
        value & (self.mask_bit() | cookie)
    }

    pub(super) fn is_masked(self, control: u32) -> bool {
        control & self.mask_bit() == self.reset() & self.mask_bit() && self.can_mask()
    }

    /// Whether slots have a cookie field.
    pub(super) fn has_cookies(self) -> bool {
        self.cookie.is_some()
    }

    pub(super) fn cookie(self, control: u32) -> Option<Cookie> {
        let field = self.cookie.filter(|field| control & field.enable.mask() != 0)?;
        Some(Cookie((control & field.value()).wrapping_shr(field.lowest.0.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bit(position: u8) -> Bit {
        Bit::new(position).unwrap()
    }

    #[test]
    fn fields_may_not_share_bits() {
        let mask = |position| Some(MaskBit { bit: bit(position), masked_when: MaskedWhen::Set });
        let cookie = CookieField { enable: bit(3), lowest: bit(12), highest: bit(31) };
        assert_eq!(ControlFormat::new(mask(0), Some(bit(1)), Some(cookie)), Ok(ControlFormat::DSA));
        let overlap = |bits| Err(FormatError::Overlap { bits });
        assert_eq!(ControlFormat::new(mask(1), Some(bit(1)), None), overlap(0b10));
        assert_eq!(ControlFormat::new(mask(3), None, Some(cookie)), overlap(1 << 3));
        assert_eq!(ControlFormat::new(None, Some(bit(31)), Some(cookie)), overlap(1 << 31));
        let within = CookieField { enable: bit(20), ..cookie };
        assert_eq!(ControlFormat::new(None, None, Some(within)), overlap(1 << 20));
        let empty = CookieField { lowest: bit(13), highest: bit(12), ..cookie };
        assert_eq!(ControlFormat::new(None, None, Some(empty)), Err(FormatError::EmptyCookie));
        assert_eq!(Bit::new(32), None);
    }

    #[test]
    fn either_polarity_is_masked_after_reset() {
        for masked_when in [MaskedWhen::Set, MaskedWhen::Clear] {
            for position in 0..32 {
                let mask = MaskBit { bit: bit(position), masked_when };
                let format = ControlFormat::new(Some(mask), None, None).unwrap();
                assert!(format.is_masked(format.reset()));
                assert!(!format.is_masked(format.reset() ^ 1 << position));
                assert_eq!(format.written(u32::MAX), 1 << position, "all else is reserved");
            }
        }
    }

    #[test]
    fn a_slot_without_a_mask_bit_is_never_masked() {
        let format = ControlFormat::new(None, None, None).unwrap();
        assert!(!format.is_masked(0) && !format.is_masked(u32::MAX));
        assert_eq!((format.reset(), format.written(u32::MAX)), (0, 0));
    }

    #[test]
    fn a_cookie_counts_while_its_enable_bit_is_set() {
        let format = ControlFormat::DSA;
        assert_eq!(format.cookie(0xabcd_e008), Some(Cookie(0xabcde)));
        assert_eq!(format.cookie(0xabcd_e000), None);
        let whole = CookieField { enable: bit(0), lowest: bit(1), highest: bit(31) };
        let format = ControlFormat::new(None, None, Some(whole)).unwrap();
        assert_eq!(format.cookie(u32::MAX), Some(Cookie(0x7fff_ffff)));
    }
}
