//! The order of versions (UAPI group, Version Format Specification): runs of digits compare as numbers, and `~` sorts before the end.

use std::cmp::Ordering;

/// Compares two versions, the older one first.
pub(super) fn compare(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    loop {
        let (before, number) = split(left);
        let (other_before, other_number) = split(right);
        let weights =
            |text: &[u8]| text.iter().map(|byte| weight(*byte)).chain([weight(0)]).collect::<Vec<_>>();
        let order = weights(before).cmp(&weights(other_before));
        let (digits, rest) = digits(number);
        let (other_digits, other_rest) = self::digits(other_number);
        // Without leading zeros, the longer number is the greater one.
        let order = order.then(digits.len().cmp(&other_digits.len())).then(digits.cmp(other_digits));
        if order.is_ne() || (number.is_empty() && other_number.is_empty()) {
            return order;
        }
        (left, right) = (rest, other_rest);
    }
}

/// The weight of a character outside of numbers. The end weighs as 0.
fn weight(byte: u8) -> u16 {
    match byte {
        b'~' => 0,
        0 => 1,
        b'-' => 2,
        b'^' => 3,
        b'.' => 4,
        other => u16::from(other).saturating_add(5),
    }
}

/// The characters up to the first digit, and the rest.
fn split(text: &[u8]) -> (&[u8], &[u8]) {
    let at = text.iter().position(u8::is_ascii_digit).unwrap_or(text.len());
    text.split_at_checked(at).unwrap_or((text, &[]))
}

/// The number at the start, without leading zeros, and the rest.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let at = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at_checked(at).unwrap_or((text, &[]));
    let zeros = number.iter().position(|byte| *byte != b'0').unwrap_or(number.len());
    (number.get(zeros..).unwrap_or_default(), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_sort_by_their_numbers() {
        let sorted = [
            "",
            "5.10",
            "6.1.0~rc1",
            "6.1.0",
            "6.1.0-2",
            "6.1.0-13",
            "6.1.0-013a",
            "6.9.12",
            "6.12.1",
            "6.12.1.fc41",
            "20260101",
        ];
        for (at, left) in sorted.iter().enumerate() {
            for (other, right) in sorted.iter().enumerate() {
                assert_eq!(compare(left, right), at.cmp(&other), "{left} {right}");
            }
        }
    }
}
