//! The middle of several measurements. Of an even number it is the upper one; of none, no number.

/// The values, the least first.
pub(super) fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The middle one of sorted values.
pub(super) fn middle(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The middle one of values in any order.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    middle(&sorted(values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_by_size_and_not_by_place() {
        assert!((median([9.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median([3.0, 1.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median([]).is_nan());
    }
}
