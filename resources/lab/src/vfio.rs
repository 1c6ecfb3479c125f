//! Hands PCI devices of *this* machine to vfio-pci and back, through sysfs.
//!
//! Works in a lab host and on real hardware alike. Knows nothing of VFIO's own interface.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{At, Error, Result};

const PCI: &str = "/sys/bus/pci";

/// The sysfs directory of a device such as `0000:01:00.0`; the domain may be left out.
///
/// # Errors
/// There is no such device.
pub fn device_dir(bdf: &str) -> Result<PathBuf> {
    let whole = if bdf.matches(':').count() == 1 { format!("0000:{bdf}") } else { bdf.to_owned() };
    let dir = Path::new(PCI).join("devices").join(&whole);
    if dir.is_dir() {
        Ok(dir)
    } else {
        Err(Error::Device(bdf.to_owned(), "there is no such PCI device".into()))
    }
}

/// The driver a device is bound to.
///
/// # Errors
/// There is no such device.
pub fn driver(bdf: &str) -> Result<Option<String>> {
    let link = device_dir(bdf)?.join("driver");
    Ok(fs::read_link(link).ok().and_then(|to| Some(to.file_name()?.to_string_lossy().into_owned())))
}

/// The number of a device's IOMMU group.
///
/// # Errors
/// There is no such device, or it is in no group: the machine has no IOMMU, or does not use it.
pub fn group(bdf: &str) -> Result<u32> {
    let link = device_dir(bdf)?.join("iommu_group");
    let number = fs::read_link(link).ok().and_then(|to| to.file_name()?.to_string_lossy().parse().ok());
    number.ok_or_else(|| Error::Device(bdf.to_owned(), "it is in no IOMMU group: turn the IOMMU on".into()))
}

/// Binds a device to vfio-pci, and to nothing else.
///
/// # Errors
/// There is no such device, it is in no IOMMU group, or the kernel refuses.
pub fn bind(bdf: &str) -> Result<()> {
    let dir = device_dir(bdf)?;
    group(bdf)?;
    if driver(bdf)?.as_deref() == Some("vfio-pci") {
        return Ok(());
    }
    write(&dir.join("driver_override"), "vfio-pci")?;
    rebind(bdf, &dir)?;
    match driver(bdf)?.as_deref() {
        Some("vfio-pci") => Ok(()),
        _ => Err(Error::Device(bdf.to_owned(), "vfio-pci did not take it: is the module loaded?".into())),
    }
}

/// Gives a device back to the driver it would have had.
///
/// # Errors
/// There is no such device, or the kernel refuses.
pub fn unbind(bdf: &str) -> Result<()> {
    let dir = device_dir(bdf)?;
    write(&dir.join("driver_override"), "\n")?;
    rebind(bdf, &dir)
}

fn rebind(bdf: &str, dir: &Path) -> Result<()> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    if driver(bdf)?.is_some() {
        write(&dir.join("driver/unbind"), &name)?;
    }
    write(&Path::new(PCI).join("drivers_probe"), &name)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).at("write", path)
}
