//! 16 bytes of guest memory, read once and at once.
//!
//! Others may write there meanwhile. What a CPU with AVX reads by one aligned instruction is what was there at one
//! moment (Intel SDM volume 3, §10.1.1; AMD APM volume 2, §7.3.2), so a driver that masks a slot, rewrites it and unmasks
//! it is never seen half way. On other CPUs, and where the host has the region at an odd place, the bytes are read one after
//! another: then a guest that rewrites a slot while it is read may get half of either, which harms nobody else.
//!
//! Owns the one instruction. No lock.

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// The bytes of a slot.
pub(super) type Bytes = [u8; 16];

/// Reads a slot that begins where `memory` does; `None` where that is shorter.
pub(super) fn read<B: BitmapSlice>(memory: &VolatileSlice<'_, B>) -> Option<Bytes> {
    let slot = memory.subslice(0, size_of::<Bytes>()).ok()?;
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx") {
        let guard = slot.ptr_guard();
        if guard.as_ptr().cast::<u128>().is_aligned() {
            // SAFETY: the slice is of 16 bytes, mapped as long as the guard lives, and aligned as was just seen.
            return Some(unsafe { x86_64::load(guard.as_ptr()) });
        }
    }
    let mut bytes = Bytes::default();
    slot.copy_to(&mut bytes);
    Some(bytes)
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;

    /// One load of 16 bytes, which the compiler cannot take apart.
    ///
    /// # Safety
    /// `at` is aligned to 16 bytes, and 16 bytes can be read there. Others may write them at the same time.
    pub(super) unsafe fn load(at: *const u8) -> super::Bytes {
        let (low, high): (u64, u64);
        // SAFETY: it reads what the caller vouches for, and writes registers only.
        unsafe {
            asm!(
                "movdqa {whole}, [{at}]",
                "movq {low}, {whole}",
                "psrldq {whole}, 8",
                "movq {high}, {whole}",
                at = in(reg) at,
                whole = out(xmm_reg) _,
                low = lateout(reg) low,
                high = lateout(reg) high,
                options(nostack, readonly, preserves_flags),
            );
        }
        (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
    }
}
