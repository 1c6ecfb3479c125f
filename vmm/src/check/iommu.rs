//! IOMMU, IOMMU groups and VFIO, from sysfs.

use std::fmt;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Finding, Grade, Roots};
use crate::vfio::{HostAddress, leaves_group_viable, link_name};

/// The first Linux that adds single MSI-X vectors while MSI-X is on (VFIO_IRQ_INFO_NORESIZE is clear).
const DYNAMIC_MSIX: (u32, u32) = (6, 5);

/// An IOMMU group, whose devices are passed through together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) number: u32,
    /// Addresses and drivers, sorted.
    devices: Vec<(String, Option<String>)>,
}

impl Group {
    /// Whether no device of the group has a driver of the host.
    pub(super) fn is_viable(&self) -> bool {
        self.devices.iter().all(|(_, driver)| driver.as_deref().is_none_or(leaves_group_viable))
    }

    pub(super) fn json(&self) -> Value {
        let devices =
            self.devices.iter().map(|(address, driver)| json!({"address": address, "driver": driver}));
        json!({"number": self.number, "usable": self.is_viable(), "devices": devices.collect::<Vec<_>>()})
    }
}

impl fmt::Display for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (address, driver)) in self.devices.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(out, "{comma}{address} ({})", driver.as_deref().unwrap_or("no driver"))?;
        }
        Ok(())
    }
}

/// The groups with PCI devices, sorted by number.
pub(super) fn groups(roots: &Roots) -> Vec<Group> {
    let directory = roots.sys.join("kernel/iommu_groups");
    let mut groups: Vec<Group> = names(&directory)
        .filter_map(|name| {
            let number = name.parse().ok()?;
            let mut devices: Vec<_> = names(&directory.join(&name).join("devices"))
                .filter(|address| HostAddress::parse(address).is_some())
                .map(|address| {
                    let driver = link_name(&roots.sys.join("bus/pci/devices").join(&address).join("driver"));
                    (address, driver)
                })
                .collect();
            devices.sort();
            (!devices.is_empty()).then_some(Group { number, devices })
        })
        .collect();
    groups.sort_by_key(|group| group.number);
    groups
}

pub(super) fn findings(roots: &Roots, groups: &[Group]) -> Vec<Finding> {
    vec![
        iommu(roots),
        module(roots, "vfio-pci", "vfio_pci"),
        container(roots),
        devices(groups),
        dynamic_msix(),
    ]
}

fn iommu(roots: &Roots) -> Finding {
    let mut units: Vec<_> = names(&roots.sys.join("class/iommu")).collect();
    units.sort();
    if units.is_empty() {
        let cure =
            "turn the IOMMU on in the firmware, and on Intel on the kernel's command line (intel_iommu=on)";
        return Finding::missing("iommu", Grade::NoDevices, "no IOMMU is in use", cure);
    }
    Finding::good("iommu", units.join(", "))
}

fn module(roots: &Roots, name: &'static str, module: &str) -> Finding {
    if roots.sys.join("module").join(module).exists() {
        return Finding::good(name, "loaded, or built in");
    }
    let cure = format!("modprobe {name}");
    Finding::missing(name, Grade::NoDevices, format!("the module {name} is not loaded"), cure)
}

fn container(roots: &Roots) -> Finding {
    let path = roots.dev.join("vfio/vfio");
    match fs::File::options().read(true).write(true).open(&path) {
        Ok(_) if !roots.sys.join("module/vfio_iommu_type1").exists() => {
            let detail = "the module vfio_iommu_type1 is not loaded";
            Finding::missing("vfio", Grade::NoDevices, detail, "modprobe vfio_iommu_type1")
        }
        Ok(_) => Finding::good("vfio", path.display().to_string()),
        Err(error) => {
            let cure = "modprobe vfio-pci, and run as root or give yourself the file";
            Finding::missing("vfio", Grade::NoDevices, format!("{}: {error}", path.display()), cure)
        }
    }
}

/// A host without a bound device can have one, so this is no reason against it.
fn devices(groups: &[Group]) -> Finding {
    let is_bound = |driver: &Option<String>| driver.as_deref().is_some_and(|driver| driver.contains("vfio"));
    let usable = groups
        .iter()
        .filter(|group| group.is_viable() && group.devices.iter().any(|(_, driver)| is_bound(driver)));
    let usable = usable.count();
    if usable > 0 {
        return Finding::good("devices", format!("IOMMU groups bound to vfio-pci: {usable}"));
    }
    let cure = "bind a device as `vmm --help` says, and every other device of its group";
    Finding::missing("devices", Grade::Lesser, "no IOMMU group is bound to vfio-pci", cure)
}

fn dynamic_msix() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= DYNAMIC_MSIX {
        return Finding::good("dynamic-msix", format!("Linux {release} adds single MSI-X vectors"));
    }
    let detail = format!("Linux {release} reserves a device's whole MSI-X table; no interrupt is lost");
    Finding::missing(
        "dynamic-msix",
        Grade::Lesser,
        detail,
        "Linux 6.5 or later, where host interrupts are scarce",
    )
}

/// The names in a directory, none if it does not exist.
fn names(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}
