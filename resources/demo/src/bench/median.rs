//! The middle of several measurements, and the quartiles around it. Of none they are no number.

/// The values, the least first.
pub(super) fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which so much of the sorted values lies, from 0 to 1; between two of them in proportion.
pub(super) fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = part * sorted.len().saturating_sub(1) as f64;
    let at = |index: f64| sorted.get(index as usize).copied().unwrap_or(f64::NAN);
    let (below, above) = (at(place.floor()), at(place.ceil()));
    below + (above - below) * place.fract()
}

/// The middle one of sorted values: of an even number, half way between the two.
pub(super) fn middle(sorted: &[f64]) -> f64 {
    quantile(sorted, 0.5)
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
        assert!((median([3.0, 1.0]) - 2.0).abs() < f64::EPSILON);
        assert!(median([]).is_nan());
    }

    #[test]
    fn half_of_the_values_lie_between_the_quartiles() {
        let values = sorted([5.0, 1.0, 4.0, 2.0, 3.0]);
        assert!((quantile(&values, 0.25) - 2.0).abs() < f64::EPSILON);
        assert!((quantile(&values, 0.75) - 4.0).abs() < f64::EPSILON);
        assert!((quantile(&[1.0, 2.0], 0.25) - 1.25).abs() < f64::EPSILON);
        assert!((quantile(&values, 1.0) - 5.0).abs() < f64::EPSILON);
    }
}
