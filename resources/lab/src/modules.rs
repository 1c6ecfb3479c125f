//! Which module files, in which order, a list of module names needs: `modules.dep` read and closed over.
//!
//! Soft dependencies and aliases are not followed: who needs `kvm-amd` names `kvm-amd`. A built-in module needs
//! no file.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use crate::error::{At, Error, Result};
use crate::kernel::Kernel;

/// The modules of one kernel.
#[derive(Debug, Default)]
pub struct Modules {
    /// From a module's canonical name to its file and, dependencies first, the names it needs.
    files: HashMap<String, (String, Vec<String>)>,
    builtin: HashSet<String>,
}

impl Modules {
    /// Reads the index of this kernel.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(kernel: &Kernel) -> Result<Self> {
        let read = |name: &str| {
            let path = kernel.modules_dir.join(name);
            fs::read_to_string(&path).at("read", path)
        };
        Ok(Self::parse(&read("modules.dep")?, &read("modules.builtin")?))
    }

    fn parse(dep: &str, builtin: &str) -> Self {
        let files = dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, needs)| {
                // depmod lists the nearest first; loading wants the farthest first.
                let needs = needs.split_whitespace().rev().map(canonical_name).collect();
                (canonical_name(file), (file.to_owned(), needs))
            })
            .collect();
        Self { files, builtin: builtin.lines().map(canonical_name).collect() }
    }

    /// The files to load, in this order, for all these modules to be there.
    ///
    /// # Errors
    /// [`Error::NoModule`] for a name that is neither a module nor built in.
    pub fn closure<'a>(
        &self,
        release: &str,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<String>> {
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        for name in names {
            self.visit(&canonical_name(name), &mut seen, &mut order)
                .map_err(|module| Error::NoModule { release: release.to_owned(), module })?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, seen: &mut HashSet<String>, order: &mut Vec<String>) -> Result<(), String> {
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        match self.files.get(name) {
            Some((file, needs)) => {
                for need in needs {
                    self.visit(need, seen, order)?;
                }
                order.push(file.clone());
                Ok(())
            }
            None if self.builtin.contains(name) => Ok(()),
            None => Err(name.to_owned()),
        }
    }
}

/// `kernel/arch/x86/kvm/kvm-amd.ko.xz` and `kvm-amd` are both the module `kvm_amd`.
fn canonical_name(file: &str) -> String {
    let base = Path::new(file).file_name().unwrap_or_default().to_string_lossy();
    base.split(".ko").next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/kvm/kvm-amd.ko.xz: kernel/kvm/kvm.ko.xz kernel/virt/irqbypass.ko.xz\n\
                       kernel/kvm/kvm.ko.xz: kernel/virt/irqbypass.ko.xz\n\
                       kernel/virt/irqbypass.ko.xz:\n\
                       kernel/net/9p.ko: kernel/net/9pnet.ko\n\
                       kernel/net/9pnet.ko:\n";

    #[test]
    fn dependencies_come_first_and_once() {
        let modules = Modules::parse(DEP, "");
        let order = modules.closure("r", ["kvm_amd", "9p", "kvm"]).unwrap();
        assert_eq!(
            order,
            [
                "kernel/virt/irqbypass.ko.xz",
                "kernel/kvm/kvm.ko.xz",
                "kernel/kvm/kvm-amd.ko.xz",
                "kernel/net/9pnet.ko",
                "kernel/net/9p.ko"
            ]
        );
    }

    #[test]
    fn a_built_in_module_needs_no_file() {
        let modules = Modules::parse(DEP, "kernel/drivers/virtio/virtio.ko\n");
        assert_eq!(modules.closure("r", ["virtio"]).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn an_unknown_module_is_named() {
        let error = Modules::parse(DEP, "").closure("6.12.1", ["nope"]).unwrap_err();
        assert_eq!(error.to_string(), "kernel 6.12.1 has no module `nope`");
    }
}
