//! The report: what the guest's interrupts have cost, at the end of a run and whenever SIGUSR1 asks.
//!
//! JSON for programs, replaced as a whole so that a reader never sees half of it; a table for people.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use vm_msi::kvm::KvmRouter;

use crate::pci::Root;

/// Where the report goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A file, as JSON.
    File(PathBuf),
    /// Standard error, as a table.
    Table,
}

impl From<&Path> for Target {
    fn from(path: &Path) -> Self {
        if path == Path::new("-") { Self::Table } else { Self::File(path.into()) }
    }
}

/// What a report is made of.
#[derive(Clone)]
pub struct Reporter {
    target: Target,
    router: Arc<KvmRouter>,
    root: Arc<Root>,
}

impl Reporter {
    /// A report of these objects.
    #[must_use]
    pub fn new(target: Target, router: Arc<KvmRouter>, root: Arc<Root>) -> Self {
        Self { target, router, root }
    }

    /// Writes the report as things are now. A failure is said, and no reason to stop the guest.
    pub fn write(&self) {
        let report = self.report();
        match &self.target {
            Target::Table => eprint!("{}", table(&report)),
            Target::File(path) => {
                let written = replace(path, &format!("{report:#}\n"));
                if let Err(error) = written {
                    eprintln!("vmm: --report {}: {error}", path.display());
                }
            }
        }
    }

    fn report(&self) -> Value {
        let counters = self.router.counters();
        let devices = self.root.reports().into_iter().map(|(place, report)| {
            let mut device = Map::from_iter([("place".to_owned(), Value::from(place.to_string()))]);
            match report {
                Value::Object(fields) => device.extend(fields),
                other => drop(device.insert("report".to_owned(), other)),
            }
            Value::Object(device)
        });
        json!({
            "devices": devices.collect::<Vec<_>>(),
            "routes": {
                "capacity": counters.capacity,
                "published": counters.published,
                "in_use": counters.in_use,
                "commits": counters.commits,
                "hits": counters.hits,
                "evictions": counters.evictions,
            },
        })
    }
}

/// Writes `text` beside `path` and puts it in its place.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}

/// One line for the routes, one block for each device, nested values by dotted names.
fn table(report: &Value) -> String {
    fn flat(prefix: &str, value: &Value, lines: &mut Vec<(String, String)>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                    flat(&name, value, lines);
                }
            }
            Value::String(text) => lines.push((prefix.to_owned(), text.clone())),
            other => lines.push((prefix.to_owned(), other.to_string())),
        }
    }
    let mut text = String::new();
    let devices = report.get("devices").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (title, value) in devices
        .iter()
        .map(|device| ("device", device))
        .chain(report.get("routes").map(|routes| ("routes", routes)))
    {
        let mut lines = Vec::new();
        flat("", value, &mut lines);
        // A string takes whatever is written to it.
        let _ = writeln!(text, "{title}");
        for (name, value) in lines {
            let _ = writeln!(text, "  {name:<32} {value}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_value_by_name() {
        let report =
            json!({"devices": [{"place": "00:01.0", "msix": {"live": 3}}], "routes": {"commits": 1}});
        let text = table(&report);
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words, ["device", "msix.live", "3", "place", "00:01.0", "routes", "commits", "1"]);
    }

    #[test]
    fn a_dash_is_the_table() {
        assert_eq!(Target::from(Path::new("-")), Target::Table);
        assert_eq!(Target::from(Path::new("./-")), Target::File("./-".into()));
    }
}
