//! Medians of all turns, for people and, as `target/bench/guest.json`, for programs.
//!
//! The array has an object for each figure: `name`, `n`, `unit`, `ours` and `qemu` (medians), `ratio` (the median of the
//! turns' ratios, ours divided by QEMU's), `spread` (the least and the greatest of these), `turns`, `host` (its kernel).

use std::fmt;
use std::fs;
use std::path::PathBuf;

use guest::{Error, Result};
use lab::Series;
use serde_json::json;

use super::figure::{Figure, Goal, Readings};
use super::median::{median, middle, sorted};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench");

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Row>,
    /// Interrupts raised and lost, ours and QEMU's.
    ours: (u64, u64),
    qemu: (u64, u64),
}

/// One figure, and ours and QEMU's of each turn.
#[derive(Debug)]
struct Row {
    figure: Figure,
    turns: Vec<(f64, f64)>,
}

impl Row {
    fn ours(&self) -> f64 {
        median(self.turns.iter().map(|turn| turn.0))
    }

    fn qemu(&self) -> f64 {
        median(self.turns.iter().map(|turn| turn.1))
    }

    /// The ratios of the turns, the least first.
    fn ratios(&self) -> Vec<f64> {
        sorted(self.turns.iter().map(|(ours, qemu)| ours / qemu))
    }
}

impl Table {
    /// Enters one turn.
    pub(super) fn enter(&mut self, ours: &Readings, qemu: &Readings) {
        for (side, readings) in [(&mut self.ours, ours), (&mut self.qemu, qemu)] {
            side.0 += readings.raised;
            side.1 += readings.lost;
        }
        for &(figure, value) in &ours.values {
            let of_qemu = qemu.values.iter().find(|(other, _)| *other == figure);
            let pair = (value, of_qemu.map_or(f64::NAN, |(_, value)| *value));
            match self.rows.iter_mut().find(|row| row.figure == figure) {
                Some(row) => row.turns.push(pair),
                None => self.rows.push(Row { figure, turns: vec![pair] }),
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
                json!({ "name": name, "n": n, "unit": unit, "ours": row.ours(), "qemu": row.qemu(),
                        "ratio": middle(&ratios), "spread": [ratios.first(), ratios.last()],
                        "turns": row.turns.len(), "host": host.to_string() })
            })
            .collect();
        let path = PathBuf::from(DIRECTORY).join("guest.json");
        let written =
            fs::create_dir_all(DIRECTORY).and_then(|()| fs::write(&path, format!("{:#}", json!(rows))));
        written.map_err(|source| Error::File { action: "write", path: path.clone(), source })?;
        Ok(path.canonicalize().unwrap_or(path))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:<16}{:>5}{:>12}{:>12}  {:<8}{:<22}goal", "", "n", "ours", "QEMU", "", "ratio")?;
        for row in &self.rows {
            let (Figure { name, n, unit, goal }, ratios) = (row.figure, row.ratios());
            let (ours, qemu, ratio) = (row.ours(), row.qemu(), middle(&ratios));
            let [low, high] = [ratios.first(), ratios.last()].map(|ratio| ratio.copied().unwrap_or(f64::NAN));
            let ratios = format!("{ratio:.2} ({low:.2} to {high:.2})");
            let goal_text = match goal {
                Goal::AtMost(most) => format!("<= {most:.2}"),
                Goal::AtLeast(least) => format!(">= {least:.2}"),
            };
            let verdict = if goal.is_reached(ratio) { "" } else { "  MISSED" };
            writeln!(
                f,
                "  {name:<16}{n:>5}{ours:>12.2}{qemu:>12.2}  {unit:<8}{ratios:<22}{goal_text}{verdict}"
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
    fn each_turn_is_compared_with_itself() {
        let mut table = Table::default();
        for (ours, qemu) in [(1.0, 4.0), (30.0, 40.0), (10.0, 20.0)] {
            table.enter(&readings(ours, 0), &readings(qemu, 1));
        }
        let text = table.to_string();
        assert!(text.contains("10.00       20.00"), "{text}");
        assert!(text.contains("0.50 (0.25 to 0.75)"), "{text}");
        assert!(!text.contains("MISSED"), "{text}");
        assert!(text.ends_with("ours 0 of 30, QEMU 3 of 30\n"), "{text}");
        assert_eq!(table.lost_by_ours(), 0);
        table.enter(&readings(30.0, 1), &readings(20.0, 0));
        assert!(table.to_string().contains("MISSED"));
        assert_eq!(table.lost_by_ours(), 1);
    }
}
