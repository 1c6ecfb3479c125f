//! The report of the devices, their vectors, the host vector budget and the routes. Written at the end of a run and
//! on SIGUSR1.
//!
//! `vmm/report.schema.json` describes the JSON. A report replaces the previous file atomically. `--report -` prints a
//! tree.

mod software;
mod tree;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use vm_msi::VmBudget;
use vm_msi::kvm::KvmRouter;

pub(crate) use software::software;

use crate::pci::Root;

/// The version of the report's format, as in the schema. It increases when a field changes its name or meaning.
const VERSION: u32 = 2;

/// The destination of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportTarget {
    /// A file, as JSON.
    File(PathBuf),
    /// Standard error, as a tree.
    Tree,
}

impl From<&Path> for ReportTarget {
    fn from(path: &Path) -> Self {
        if path == Path::new("-") { Self::Tree } else { Self::File(path.into()) }
    }
}

/// The sources of a report.
#[derive(Clone)]
pub struct Reporter {
    /// The destination.
    pub target: ReportTarget,
    /// The VM's message router.
    pub router: Arc<KvmRouter>,
    /// The host vectors of all devices.
    pub budget: Arc<VmBudget>,
    /// The devices.
    pub root: Arc<Root>,
}

impl Reporter {
    /// Writes a report of the current state. An error is printed, and the guest goes on.
    pub fn write(&self) {
        let report = self.report();
        match &self.target {
            ReportTarget::Tree => eprint!("{}", tree::draw("vm", &report)),
            ReportTarget::File(path) => {
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
            "version": VERSION,
            "devices": devices.collect::<Vec<_>>(),
            "budget": self.budget.report(),
            "routes": {
                "destination_ids": self.router.destination_ids(),
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

/// Writes `text` to a temporary file and renames it to `path`.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dash_is_the_tree() {
        assert_eq!(ReportTarget::from(Path::new("-")), ReportTarget::Tree);
        assert_eq!(ReportTarget::from(Path::new("./-")), ReportTarget::File("./-".into()));
    }
}
