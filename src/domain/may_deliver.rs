//! Which vectors may deliver now, for accesses that take no lock.
//!
//! A guest's access that shows a vector as masked must not return while another vCPU's access is still detaching that vector.
//! Most accesses change nothing and take no lock, so they look here first. One bit a vector.
//!
//! Invariant: while a bit is clear, its vector delivers nothing. No sync is under way that has read the store before the bit was cleared
//! and will attach the vector. The domain sets the bit before it reads the store, and clears it after the vector was
//! detached. An access reads the store (or has changed it) before it looks at the bit. All of these are `SeqCst`: either the
//! domain sees the mask, or the access sees the bit, and waits.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use crate::delivery::Vector;

/// One bit a vector. They are allocated at the first use.
#[derive(Debug)]
pub(super) struct MayDeliver {
    vectors: u32,
    words: OnceLock<Box<[AtomicU64]>>,
}

impl MayDeliver {
    pub(super) fn new(vectors: u32) -> Self {
        Self { vectors, words: OnceLock::new() }
    }

    #[inline]
    pub(super) fn set(&self, vector: Vector) {
        let bit = bit(vector);
        let words =
            self.words.get_or_init(|| (0..self.vectors.div_ceil(64)).map(|_| AtomicU64::new(0)).collect());
        if let Some(word) = words.get(vector.index() / 64)
            && word.load(SeqCst) & bit == 0
        {
            word.fetch_or(bit, SeqCst);
        }
    }

    #[inline]
    pub(super) fn clear(&self, vector: Vector) {
        if let Some(word) = self.words.get().and_then(|words| words.get(vector.index() / 64)) {
            word.fetch_and(!bit(vector), SeqCst);
        }
    }

    /// The first of `vectors` that may deliver.
    #[inline]
    pub(super) fn first(&self, vectors: Range<u32>) -> Option<Vector> {
        let words = self.words.get()?;
        let mut at = vectors.start;
        while at < vectors.end {
            let word = words.get(Vector(at).index() / 64)?.load(SeqCst) & u64::MAX.wrapping_shl(at % 64);
            let first_of_word = at.saturating_sub(at % 64);
            if word != 0 {
                let vector = first_of_word.saturating_add(word.trailing_zeros());
                return (vector < vectors.end).then_some(Vector(vector));
            }
            at = first_of_word.saturating_add(64);
        }
        None
    }
}

fn bit(vector: Vector) -> u64 {
    1u64.wrapping_shl(vector.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_vector_of_a_range_that_may_deliver_is_found() {
        let bits = MayDeliver::new(200);
        for vector in [3, 64, 127, 199] {
            bits.set(Vector(vector));
        }
        let first = |range| bits.first(range).map(|vector| vector.0);
        assert_eq!(first(0..200), Some(3));
        assert_eq!(first(4..64), None);
        assert_eq!(first(4..65), Some(64));
        assert_eq!(first(65..200), Some(127));
        assert_eq!(first(128..199), None);
        assert_eq!(first(128..5000), Some(199));
        assert_eq!(first(200..5000), None);
        bits.clear(Vector(127));
        assert_eq!(first(65..200), Some(199));
        bits.set(Vector(100_000));
        bits.clear(Vector(100_000));
    }
}
