//! Medians of all pairs, for people and, as `target/bench/guest.json`, for programs.
//!
//! The array has an object for each figure: `name`, `n`, `unit`, `ours` and `qemu` (medians), `ratio` (the median of the
//! pairs' ratios, ours divided by QEMU's), `quartiles` (between them lies half of these), `spread` (the least and the greatest),
//! `pairs` (ours and QEMU's of each, in the order in which they were measured), `host` (its kernel).

use std::fmt;
use std::fs;
use std::path::PathBuf;

use guest::Result;
use lab::{At, Series};
use serde_json::json;

use super::figure::{Figure, Goal, Readings};
use super::median::{median, middle, quantile, sorted};
use super::sides::Sides;

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench");
/// Of fewer pairs a table shows the least and the greatest ratio, as quartiles would say nothing.
const FEW: usize = 8;

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Row>,
    /// Interrupts raised and lost, ours and QEMU's.
    ours: (u64, u64),
    qemu: (u64, u64),
}

/// One figure, and ours and QEMU's of each pair.
#[derive(Debug)]
struct Row {
    figure: Figure,
    pairs: Vec<(f64, f64)>,
}

impl Row {
    fn ours(&self) -> f64 {
        median(self.pairs.iter().map(|pair| pair.0))
    }

    fn qemu(&self) -> f64 {
        median(self.pairs.iter().map(|pair| pair.1))
    }

    /// The ratios of the pairs, the least first.
    fn ratios(&self) -> Vec<f64> {
        sorted(self.pairs.iter().map(|(ours, qemu)| ours / qemu))
    }
}

impl Table {
    /// Enters one pair.
    pub(super) fn enter(&mut self, pair: &Sides<Readings>) {
        for (side, readings) in [(&mut self.ours, &pair.ours), (&mut self.qemu, &pair.qemu)] {
            side.0 += readings.raised;
            side.1 += readings.lost;
        }
        for &(figure, value) in &pair.ours.values {
            let of_qemu = pair.qemu.values.iter().find(|(other, _)| *other == figure);
            let pair = (value, of_qemu.map_or(f64::NAN, |(_, value)| *value));
            match self.rows.iter_mut().find(|row| row.figure == figure) {
                Some(row) => row.pairs.push(pair),
                None => self.rows.push(Row { figure, pairs: vec![pair] }),
            }
        }
    }

    pub(super) fn lost_by_ours(&self) -> u64 {
        self.ours.1
    }

    /// Writes it for programs, and says where. It was measured on a lab host with this kernel.
    pub(super) fn write(&self, host: Series) -> Result<PathBuf> {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let (Figure { name, n, unit, .. }, ratios) = (row.figure, row.ratios());
                let quartiles = [0.25, 0.75].map(|part| quantile(&ratios, part));
                json!({ "name": name, "n": n, "unit": unit, "ours": row.ours(), "qemu": row.qemu(),
                        "ratio": middle(&ratios), "quartiles": quartiles,
                        "spread": [ratios.first(), ratios.last()], "pairs": row.pairs, "host": host.to_string() })
            })
            .collect();
        let path = PathBuf::from(DIRECTORY).join("guest.json");
        let written =
            fs::create_dir_all(DIRECTORY).and_then(|()| fs::write(&path, format!("{:#}", json!(rows))));
        written.at("write", &path)?;
        Ok(path.canonicalize().unwrap_or(path))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  ratios of pairs: the median, and the quartiles; of fewer than {FEW}, least and greatest"
        )?;
        writeln!(
            f,
            "  {:<16}{:>5}{:>12}{:>12}  {:<8}{:<22}{:<7}goal",
            "", "n", "ours", "QEMU", "", "ratio", "pairs"
        )?;
        for row in &self.rows {
            let (Figure { name, n, unit, goal }, ratios) = (row.figure, row.ratios());
            let (ours, qemu, ratio) = (row.ours(), row.qemu(), middle(&ratios));
            let pairs = ratios.len();
            let [low, high] =
                if pairs < FEW { [0.0, 1.0] } else { [0.25, 0.75] }.map(|part| quantile(&ratios, part));
            let ratios = format!("{ratio:.2} ({low:.2} to {high:.2})");
            let goal_text = match goal {
                Goal::AtMost(most) => format!("<= {most:.2}"),
                Goal::AtLeast(least) => format!(">= {least:.2}"),
            };
            let verdict = if goal.is_reached(ratio) { "" } else { "  MISSED" };
            writeln!(
                f,
                "  {name:<16}{n:>5}{ours:>12.2}{qemu:>12.2}  {unit:<8}{ratios:<22}{pairs:<7}{goal_text}{verdict}"
            )?;
        }
        let (ours, qemu) = (self.ours, self.qemu);
        writeln!(f, "  interrupts lost: ours {} of {}, QEMU {} of {}", ours.1, ours.0, qemu.1, qemu.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROWTH: Figure = Figure { name: "grow", n: 64, unit: "ms", goal: Goal::AtMost(0.5) };

    fn readings(value: f64, lost: u64) -> Readings {
        Readings { values: vec![(GROWTH, value)], raised: 10, lost }
    }

    #[test]
    fn each_pair_is_compared_with_itself() {
        let mut table = Table::default();
        // The host's speed changes from pair to pair; the ratio of the medians would be 0.25.
        for (ours, qemu) in [(2.0, 4.0), (30.0, 40.0), (10.0, 40.0)] {
            table.enter(&Sides { ours: readings(ours, 0), qemu: readings(qemu, 1) });
        }
        let text = table.to_string();
        assert!(text.contains("10.00       40.00"), "{text}");
        assert!(text.contains("0.50 (0.25 to 0.75)   3 "), "{text}");
        assert!(!text.contains("MISSED"), "{text}");
        for _ in 0..2 {
            table.enter(&Sides { ours: readings(30.0, 0), qemu: readings(20.0, 0) });
        }
        assert!(table.to_string().contains("MISSED"));
    }

    #[test]
    fn of_many_pairs_half_lie_within_what_is_shown() {
        let mut table = Table::default();
        for ours in 1..=9 {
            table.enter(&Sides { ours: readings(f64::from(ours), 0), qemu: readings(10.0, 0) });
        }
        let text = table.to_string();
        assert!(text.contains("0.50 (0.30 to 0.70)   9 "), "{text}");
    }

    #[test]
    fn what_was_lost_counts_also_where_nothing_was_measured() {
        let mut table = Table::default();
        let unmeasured = |lost| Readings { values: Vec::new(), raised: 10, lost };
        table.enter(&Sides { ours: unmeasured(1), qemu: unmeasured(0) });
        table.enter(&Sides { ours: readings(1.0, 2), qemu: readings(1.0, 0) });
        assert_eq!(table.lost_by_ours(), 3);
        let text = table.to_string();
        assert!(text.ends_with("ours 3 of 20, QEMU 0 of 20\n"), "{text}");
    }
}
