//! Pending bits as plain data, in the format of the Pending Bit Array (PCIe r6 §7.7.2.9).

use super::RestoreError;
use crate::delivery::Vector;

/// One bit for each vector of a function, 64 to a word. The lowest vector is in the lowest bit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct PendingBits(pub Vec<u64>);

impl PendingBits {
    /// The bits of a function with `vectors` vectors, from 64-bit words such as another VMM's snapshot
    /// contains.
    ///
    /// Bits and words beyond `vectors` are dropped. Missing words are 0.
    pub fn from_words(vectors: u32, image: impl IntoIterator<Item = u64>) -> Self {
        let mut bits: Vec<u64> = image.into_iter().take(words(vectors)).collect();
        bits.resize(words(vectors), 0);
        if let Some(last) = bits.last_mut()
            && !vectors.is_multiple_of(64)
        {
            *last &= 1u64.wrapping_shl(vectors).wrapping_sub(1);
        }
        Self(bits)
    }

    /// The same from the bytes of a Pending Bit Array, as a guest reads them from a BAR. Missing bytes are 0.
    pub fn from_bytes(vectors: u32, image: &[u8]) -> Self {
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word: u64, byte| word << 8 | u64::from(*byte));
        Self::from_words(vectors, image.chunks(8).map(word))
    }

    /// The bits of `vectors` vectors. The bits of the vectors in `pending` are set.
    pub(crate) fn collect(vectors: u32, pending: impl Iterator<Item = Vector>) -> Self {
        let mut words = vec![0; words(vectors)];
        for vector in pending.filter(|vector| vector.0 < vectors) {
            if let Some(word) = words.get_mut(vector.index() / 64) {
                *word |= 1u64.wrapping_shl(vector.0);
            }
        }
        Self(words)
    }

    /// The vectors whose bit is set, ascending.
    pub fn vectors(&self) -> impl Iterator<Item = Vector> {
        (0u32..).zip(&self.0).flat_map(|(word, bits)| {
            let first = word.saturating_mul(64);
            (0..64)
                .filter(move |bit| bits.wrapping_shr(*bit) & 1 == 1)
                .map(move |bit| Vector(first.saturating_add(bit)))
        })
    }

    /// Refuses bits that a function with `vectors` vectors cannot have.
    pub(crate) fn check(&self, vectors: u32) -> Result<(), RestoreError> {
        let (found, expected) = (self.0.len(), words(vectors));
        if found != expected {
            return Err(RestoreError::PendingWords { found, expected });
        }
        match self.vectors().last() {
            Some(vector) if vector.0 >= vectors => Err(RestoreError::PendingBeyond { vector, vectors }),
            _ => Ok(()),
        }
    }
}

fn words(vectors: u32) -> usize {
    (vectors as usize).div_ceil(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_set_bits_are_returned() {
        let set = [0, 1, 31, 32, 63, 64, 69];
        let bits = PendingBits::collect(70, set.into_iter().chain([70, 1000]).map(Vector));
        assert_eq!(bits.0, [1 << 63 | 1 << 32 | 1 << 31 | 0b11, 1 << 5 | 1]);
        assert!(bits.vectors().eq(set.map(Vector)));
        assert!(bits.check(70).is_ok());
    }

    #[test]
    fn an_image_of_another_vmm_is_cut_or_zero_extended() {
        let bytes: Vec<u8> = (1..=9).collect();
        for (vectors, expected) in [
            (0, vec![]),
            (9, vec![0x0000_0000_0000_0001]),
            (64, vec![0x0807_0605_0403_0201]),
            (65, vec![0x0807_0605_0403_0201, 1]),
            (70, vec![0x0807_0605_0403_0201, 9]),
            (200, vec![0x0807_0605_0403_0201, 9, 0, 0]),
        ] {
            let bits = PendingBits::from_bytes(vectors, &bytes);
            assert_eq!(bits.0, expected, "{vectors} vectors");
            assert!(bits.check(vectors).is_ok());
        }
        let bits = PendingBits::from_words(70, [u64::MAX; 3]);
        assert_eq!((bits.0.as_slice(), bits.check(70).is_ok()), ([u64::MAX, 0x3f].as_slice(), true));
    }

    #[test]
    fn more_bits_than_vectors_are_refused() {
        let beyond = PendingBits(vec![0, 1 << 6]);
        assert!(matches!(
            beyond.check(70),
            Err(RestoreError::PendingBeyond { vector: Vector(70), vectors: 70 })
        ));
        for words in [vec![], vec![0], vec![0; 3]] {
            assert!(matches!(
                PendingBits(words).check(70),
                Err(RestoreError::PendingWords { expected: 2, .. })
            ));
        }
    }
}
