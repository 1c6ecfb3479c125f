//! The figures for programs, and the plot for people.

use std::fs;

use serde_json::json;

use crate::measure::{Figure, Result};
use crate::plot;

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench");
const SUMMARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench/summary.json");
/// Checked in: the README shows it.
const PLOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cost.svg");

/// Writes `target/bench/summary.json` and `benches/cost.svg`.
pub(crate) fn write(figures: &[(usize, Figure)]) -> Result<()> {
    let entries: Vec<_> = figures
        .iter()
        .map(|(cpu, figure)| {
            json!({ "name": figure.name, "n": figure.n, "ours_us": figure.ours_us, "worst_us": figure.worst_us,
                    "floor_us": figure.floor_us, "ratio": figure.ratio,
                    "spread": [figure.spread.0, figure.spread.1], "commits": figure.commits,
                    "others_commits": figure.others_commits, "cpu": cpu })
        })
        .collect();
    fs::create_dir_all(DIRECTORY)?;
    fs::write(SUMMARY, serde_json::to_string_pretty(&entries)?)?;
    fs::write(PLOT, plot::svg(figures)?)?;
    println!("written to {SUMMARY} and {PLOT}");
    Ok(())
}
