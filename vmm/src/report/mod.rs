//! The report: what the guest's interrupts have cost, at the end of a run and whenever SIGUSR1 asks.
//!
//! JSON for programs, replaced as a whole so that a reader never sees half of it, and as `vmm/report.schema.json`
//! describes it; a tree for people.

mod software;
mod tree;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use vm_msi::VmBudget;
use vm_msi::kvm::KvmRouter;

pub(crate) use software::software;

use crate::pci::Root;

/// The version of the report's format, as the schema has it. It rises when a field changes its name or its meaning.
const VERSION: u32 = 2;

/// Where the report goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A file, as JSON.
    File(PathBuf),
    /// Standard error, as a tree.
    Tree,
}

impl From<&Path> for Target {
    fn from(path: &Path) -> Self {
        if path == Path::new("-") { Self::Tree } else { Self::File(path.into()) }
    }
}

/// What a report is made of.
#[derive(Clone)]
pub struct Reporter {
    /// Where it goes.
    pub target: Target,
    /// The VM's messages.
    pub router: Arc<KvmRouter>,
    /// The host vectors of all its devices.
    pub budget: Arc<VmBudget>,
    /// The devices themselves.
    pub root: Arc<Root>,
}

impl Reporter {
    /// Writes the report as things are now. A failure is said, and no reason to stop the guest.
    pub fn write(&self) {
        let report = self.report();
        match &self.target {
            Target::Tree => eprint!("{}", tree::draw("vm", &report)),
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

/// Writes `text` beside `path` and puts it in its place.
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
        assert_eq!(Target::from(Path::new("-")), Target::Tree);
        assert_eq!(Target::from(Path::new("./-")), Target::File("./-".into()));
    }
}
