//! Counters that stop at their largest value: a counter must neither panic nor start again at 0.

/// An unsigned integer that counts.
pub(crate) trait Increment {
    /// Adds one, unless the counter has its largest value.
    fn increment(&mut self);
}

macro_rules! counters {
    ($($integer:ty),*) => {$(
        impl Increment for $integer {
            #[inline(always)]
            fn increment(&mut self) {
                *self = self.saturating_add(1);
            }
        }
    )*};
}

counters!(u16, u32, u64, usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_stops_at_its_largest_value() {
        let mut counter = u32::MAX - 1;
        counter.increment();
        counter.increment();
        assert_eq!(counter, u32::MAX);
    }
}
