//! A read of 16 bytes of guest memory that is atomic where the CPU allows it.
//!
//! vCPUs may write to the memory at the same time. On a CPU with AVX, one aligned 16-byte load is atomic
//! (Intel SDM volume 3, §10.1.1; AMD APM volume 2, §7.3.2). A driver that masks a slot, rewrites it and
//! unmasks it is therefore never seen half way. On other CPUs, and where the host maps the region unaligned,
//! the bytes are read one after another. A guest that rewrites a slot during such a read may get a mix of
//! both. It harms only itself.
//!
//! Owns the one instruction. No lock.

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// The bytes of a slot.
pub(super) type Bytes = [u8; 16];

/// Reads the slot at the start of `memory`. `None` if `memory` is shorter than a slot.
pub(super) fn read<B: BitmapSlice>(memory: &VolatileSlice<'_, B>) -> Option<Bytes> {
    let slot = memory.subslice(0, size_of::<Bytes>()).ok()?;
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx") {
        let guard = slot.ptr_guard();
        if guard.as_ptr().cast::<u128>().is_aligned() {
            // SAFETY: the slice has 16 bytes, is mapped while the guard lives, and has just been checked to
            // be aligned.
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

    /// One load of 16 bytes, which the compiler cannot split.
    ///
    /// # Safety
    /// `at` is aligned to 16 bytes, and 16 bytes can be read there. Other threads may write them at the same
    /// time.
    pub(super) unsafe fn load(at: *const u8) -> super::Bytes {
        let (low, high): (u64, u64);
        // SAFETY: the asm reads only the 16 bytes that the caller guarantees, and writes only registers.
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
