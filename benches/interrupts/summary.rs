//! The figures for programs.

use std::error::Error;
use std::fs;

use serde_json::json;

use crate::measure::Figure;

/// Writes `target/bench/summary.json`.
pub(crate) fn write(figures: &[(usize, Figure)]) -> Result<(), Box<dyn Error>> {
    let entries: Vec<_> = figures
        .iter()
        .map(|(cpu, figure)| {
            json!({ "name": figure.name, "n": figure.n, "ours_us": figure.ours_us,
                    "floor_us": figure.floor_us, "ratio": figure.ratio,
                    "spread": [figure.spread.0, figure.spread.1], "commits": figure.commits, "cpu": cpu })
        })
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench/summary.json");
    fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench"))?;
    fs::write(path, serde_json::to_string_pretty(&entries)?)?;
    println!("written to {path}");
    Ok(())
}
