//! Selects host devices by name, and checks in sysfs that they can be passed through.
//!
//! Every device is checked before any of them is opened. Each message names the problem and its remedy.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Host drivers that leave the IOMMU group viable.
const HARMLESS_DRIVERS: [&str; 2] = ["pcieport", "pci-stub"];

/// Domain, bus, device and function number of a host PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl HostAddress {
    /// From `DDDD:BB:DD.F`, or `BB:DD.F` in domain 0, in hexadecimal.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hexadecimal = |digits: &str, most: usize| {
            let valid = (1..=most).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if valid { u32::from_str_radix(digits, 16).ok() } else { None }
        };
        let (rest, function) = text.rsplit_once('.')?;
        let (rest, device) = rest.rsplit_once(':')?;
        let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
        let address = Self {
            domain: hexadecimal(domain, 8)?,
            bus: u8::try_from(hexadecimal(bus, 2)?).ok()?,
            device: u8::try_from(hexadecimal(device, 2)?).ok()?,
            function: u8::try_from(hexadecimal(function, 1)?).ok()?,
        };
        (address.device < 32 && address.function < 8).then_some(address)
    }

    /// The function number.
    #[must_use]
    pub fn function(self) -> u8 {
        self.function
    }

    /// Whether domain, bus and device number are the same.
    #[must_use]
    pub fn is_same_device(self, other: Self) -> bool {
        (self.domain, self.bus, self.device) == (other.domain, other.bus, other.device)
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

/// A device that can be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// Its address on the host.
    pub address: HostAddress,
    /// Its IOMMU group's number.
    pub group: u32,
}

/// The host's sysfs.
#[derive(Debug)]
pub struct Sysfs(PathBuf);

impl Default for Sysfs {
    fn default() -> Self {
        Self(PathBuf::from("/sys"))
    }
}

impl Sysfs {
    /// Finds the devices with these names, and checks that each can be passed through. A name is an address as `lspci
    /// -D` prints it, or a path in sysfs.
    ///
    /// # Errors
    /// [`Error::Input`] for the first problem, with its remedy.
    pub fn select<S: AsRef<str>>(&self, names: &[S]) -> Result<Vec<HostDevice>> {
        let mut chosen: BTreeMap<HostAddress, &str> = BTreeMap::new();
        let mut devices = Vec::new();
        for name in names {
            let name = name.as_ref();
            let device = self.check(name)?;
            if let Some(earlier) = chosen.insert(device.address, name) {
                let problem = format!("is the same device as {earlier}, and can be passed through only once");
                return Err(input(name, problem));
            }
            devices.push(device);
        }
        Ok(devices)
    }

    /// Finds a device to mediate. The guest must not have another device of its IOMMU group.
    ///
    /// # Errors
    /// [`Error::Input`] for the first problem, with its remedy.
    pub fn select_mediated(&self, address: HostAddress, passed_through: &[HostDevice]) -> Result<HostDevice> {
        let name = address.to_string();
        let device = self.check(&name).map_err(|error| error.with_argument(mediated(&name)))?;
        match passed_through.iter().find(|other| other.group == device.group) {
            None => Ok(device),
            Some(other) => {
                let group = device.group;
                let problem =
                    format!("is in IOMMU group {group} with {}, which the guest has", other.address);
                Err(Error::input(mediated(&name), problem))
            }
        }
    }

    /// Whether the function is a virtual function of SR-IOV.
    #[must_use]
    pub fn is_virtual_function(&self, address: HostAddress) -> bool {
        self.device(address).join("physfn").exists()
    }

    fn check(&self, name: &str) -> Result<HostDevice> {
        let address = self.find(name)?;
        let path = self.device(address);
        if is_bridge(&path) {
            let problem = "is a bridge, and cannot be passed through; give the devices behind it";
            return Err(input(name, problem));
        }
        match link_name(&path.join("driver")) {
            Some(driver) if is_vfio(&driver) => {}
            Some(driver) => {
                let problem = format!("is bound to its host driver {driver}; {}", how_to_bind(address, true));
                return Err(input(name, problem));
            }
            None => {
                let problem = format!("is bound to no driver; {}", how_to_bind(address, false));
                return Err(input(name, problem));
            }
        }
        let group = link_name(&path.join("iommu_group")).and_then(|group| group.parse().ok());
        let group = group.ok_or_else(|| {
            let cure = "turn the IOMMU on in the firmware and on the kernel's command line (intel_iommu=on)";
            input(name, format!("is in no IOMMU group: the host has no IOMMU in use; {cure}"))
        })?;
        self.check_neighbours(name, address, group)?;
        Ok(HostDevice { address, group })
    }

    /// The address of an existing device.
    fn find(&self, name: &str) -> Result<HostAddress> {
        let missing = "no such PCI device on this host; `lspci -D` lists them";
        let address = if name.contains('/') {
            let path = fs::canonicalize(name).map_err(|error| input(name, format!("{error}; {missing}")))?;
            path.file_name().and_then(|last| HostAddress::parse(last.to_str()?))
        } else {
            HostAddress::parse(name)
        };
        let address = address.ok_or_else(|| {
            let form = "an address like 0000:01:00.0, or a path like /sys/bus/pci/devices/0000:01:00.0";
            input(name, format!("is no PCI device; give {form}"))
        })?;
        if self.device(address).exists() { Ok(address) } else { Err(input(name, missing)) }
    }

    /// VFIO hands out whole groups: no device of the group may have a host driver.
    fn check_neighbours(&self, name: &str, address: HostAddress, group: u32) -> Result<()> {
        let members = self.0.join(format!("kernel/iommu_groups/{group}/devices"));
        let listed = fs::read_dir(&members);
        let listed = listed.map_err(|error| Error::host(format!("reading {}", members.display()), error))?;
        let mut taken: Vec<String> = listed
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|other| HostAddress::parse(other).is_none_or(|other| other != address))
            .filter_map(|other| {
                let driver = link_name(&self.0.join("bus/pci/devices").join(&other).join("driver"))?;
                (!leaves_group_viable(&driver)).then(|| format!("{other} ({driver})"))
            })
            .collect();
        if taken.is_empty() {
            return Ok(());
        }
        taken.sort();
        let taken = taken.join(", ");
        let cure = "bind them to vfio-pci too, or put the device into another slot";
        Err(input(
            name,
            format!("shares its IOMMU group {group} with devices that the host uses: {taken}; {cure}"),
        ))
    }

    fn device(&self, address: HostAddress) -> PathBuf {
        self.0.join("bus/pci/devices").join(address.to_string())
    }
}

fn mediated(name: &str) -> String {
    format!("--device ims-mediated,host={name}")
}

fn input(name: &str, problem: impl fmt::Display) -> Error {
    Error::input(format!("--vfio {name}"), problem)
}

/// Whether the configuration header is another than an endpoint's (PCIe r6 §7.5.1.1.9). VFIO takes endpoints only.
fn is_bridge(device: &Path) -> bool {
    const HEADER_TYPE: usize = 0x0e;
    const LAYOUT: u8 = 0x7f;
    // The kernel lets everybody read the first 64 bytes.
    let header = fs::read(device.join("config")).unwrap_or_default();
    header.get(HEADER_TYPE).is_some_and(|header_type| header_type & LAYOUT != 0)
}

/// vfio-pci and its vendor variants (mlx5_vfio_pci, nvgrace_gpu_vfio_pci, ...).
fn is_vfio(driver: &str) -> bool {
    driver == "vfio-pci" || driver.contains("vfio_pci") || driver.contains("vfio-pci")
}

/// Whether a device with this driver may be in the group of a passed-through device.
pub(crate) fn leaves_group_viable(driver: &str) -> bool {
    is_vfio(driver) || HARMLESS_DRIVERS.contains(&driver)
}

fn how_to_bind(address: HostAddress, bound: bool) -> String {
    let device = format!("/sys/bus/pci/devices/{address}");
    let unbind = if bound { format!("echo {address} >{device}/driver/unbind; ") } else { String::new() };
    format!(
        "bind it to vfio-pci: modprobe vfio-pci; echo vfio-pci >{device}/driver_override; {unbind}\
         echo {address} >/sys/bus/pci/drivers_probe"
    )
}

/// The name of a link's target, for example of a driver.
pub(crate) fn link_name(link: &Path) -> Option<String> {
    fs::read_link(link).ok()?.file_name()?.to_str().map(str::to_owned)
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A temporary sysfs.
    pub(in crate::vfio) struct Host(Sysfs);

    impl Host {
        pub(in crate::vfio) fn sysfs(&self) -> &Sysfs {
            &self.0
        }

        /// Makes a device a virtual function.
        pub(in crate::vfio) fn virtual_function(self, address: &str) -> Self {
            let path = self.0.0.join("bus/pci/devices").join(address);
            symlink("..", path.join("physfn")).unwrap();
            self
        }

        /// Gives a device a configuration header of this type.
        fn header_type(self, address: &str, header_type: u8) -> Self {
            let mut header = vec![0; 64];
            header[0x0e] = header_type;
            fs::write(self.0.0.join("bus/pci/devices").join(address).join("config"), header).unwrap();
            self
        }

        pub(in crate::vfio) fn new(test: &str) -> Self {
            let root = std::env::temp_dir().join(format!("vmm-sysfs-{test}-{}", std::process::id()));
            fs::create_dir_all(root.join("bus/pci/devices")).unwrap();
            Self(Sysfs(root))
        }

        pub(in crate::vfio) fn device(self, address: &str, driver: Option<&str>, group: Option<u32>) -> Self {
            let root = &self.0.0;
            let path = root.join("bus/pci/devices").join(address);
            fs::create_dir_all(&path).unwrap();
            if let Some(driver) = driver {
                symlink(format!("../../../bus/pci/drivers/{driver}"), path.join("driver")).unwrap();
            }
            if let Some(group) = group {
                let members = root.join(format!("kernel/iommu_groups/{group}/devices"));
                fs::create_dir_all(&members).unwrap();
                symlink(&path, members.join(address)).unwrap();
                symlink(format!("../../../kernel/iommu_groups/{group}"), path.join("iommu_group")).unwrap();
            }
            self
        }

        fn error(&self, names: &[&str]) -> String {
            let error = self.0.select(names).unwrap_err();
            assert_eq!(error.exit_status(), 2);
            let text = error.to_string();
            assert!(!text.contains('\n'));
            text
        }
    }

    impl Drop for Host {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0.0).unwrap();
        }
    }

    #[test]
    fn addresses_are_read_in_full_and_in_short() {
        let text = |name: &str| HostAddress::parse(name).map(|address| address.to_string());
        assert_eq!(text("0000:01:00.0").as_deref(), Some("0000:01:00.0"));
        assert_eq!(text("1f:1F.7").as_deref(), Some("0000:1f:1f.7"));
        assert_eq!(text("10000:e1:00.0").as_deref(), Some("10000:e1:00.0"));
        for wrong in [
            "",
            "nvme0",
            "01:00",
            "01:20.0",
            "01:00.8",
            "001:00.0",
            "1:2:3:4.0",
            "+1:00.0",
            "01:00.",
            ":00.0",
        ] {
            assert_eq!(text(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn devices_on_vfio_are_chosen_by_address_and_by_path() {
        let host = Host::new("chosen")
            .device("0000:01:00.0", Some("vfio-pci"), Some(7))
            .device("0000:01:00.1", Some("mlx5_vfio_pci"), Some(7))
            .device("0000:00:01.0", Some("pcieport"), Some(7))
            .device("0000:01:00.2", None, Some(7));
        let path = host.0.0.join("bus/pci/devices/0000:01:00.1");
        let chosen = host.0.select(&["01:00.0", path.to_str().unwrap()]).unwrap();
        let chosen: Vec<_> = chosen.iter().map(|device| (device.address.to_string(), device.group)).collect();
        assert_eq!(chosen, [("0000:01:00.0".to_owned(), 7), ("0000:01:00.1".to_owned(), 7)]);
    }

    #[test]
    fn a_mediated_device_is_apart_from_those_that_the_guest_has() {
        let host = Host::new("apart")
            .device("0000:01:00.0", Some("vfio-pci"), Some(1))
            .device("0000:02:00.0", Some("vfio-pci"), Some(2))
            .device("0000:02:00.1", Some("vfio-pci"), Some(2))
            .device("0000:03:00.0", Some("nvme"), Some(3));
        let passed_through = host.0.select(&["02:00.0"]).unwrap();
        let select = |name| host.0.select_mediated(HostAddress::parse(name).unwrap(), &passed_through);
        assert_eq!(select("01:00.0").unwrap().group, 1);
        for (name, expected) in [
            ("02:00.0", "IOMMU group 2 with 0000:02:00.0, which the guest has"),
            ("02:00.1", "IOMMU group 2 with 0000:02:00.0, which the guest has"),
            ("03:00.0", "host driver nvme; bind it to vfio-pci"),
        ] {
            let text = select(name).unwrap_err().to_string();
            assert!(
                text.starts_with("--device ims-mediated,host=0000:") && text.contains(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn a_bridge_is_told_from_an_endpoint_whatever_its_driver() {
        let host = Host::new("bridge")
            .device("0000:00:01.0", Some("pcieport"), Some(1))
            .device("0000:00:02.0", None, Some(2))
            .device("0000:00:03.0", Some("vfio-pci"), Some(3))
            .device("0000:00:04.0", Some("vfio-pci"), Some(4))
            .header_type("0000:00:01.0", 0x81)
            .header_type("0000:00:02.0", 2)
            .header_type("0000:00:03.0", 1)
            .header_type("0000:00:04.0", 0x80);
        for bridge in ["0000:00:01.0", "00:02.0", "00:03.0"] {
            let text = host.error(&[bridge]);
            let expected = format!("--vfio {bridge}: is a bridge, and cannot be passed through");
            assert!(text.starts_with(&expected), "{text}");
        }
        assert_eq!(host.0.select(&["00:04.0"]).unwrap().len(), 1, "an endpoint with several functions");
    }

    #[test]
    fn a_member_of_the_group_that_blocks_is_named_with_its_driver_and_others_are_not() {
        let host = Host::new("members")
            .device("0000:00:1c.0", Some("pcieport"), Some(9))
            .device("0000:04:00.0", Some("vfio-pci"), Some(9))
            .device("0000:04:00.1", Some("snd_hda_intel"), Some(9))
            .device("0000:04:00.2", None, Some(9))
            .device("0000:04:00.3", Some("xhci_hcd"), Some(9));
        let text = host.error(&["04:00.0"]);
        assert!(text.contains("uses: 0000:04:00.1 (snd_hda_intel), 0000:04:00.3 (xhci_hcd);"), "{text}");
    }

    #[test]
    fn an_invalid_device_is_refused_with_the_remedy() {
        let host = Host::new("refused")
            .device("0000:01:00.0", Some("nvme"), Some(1))
            .device("0000:02:00.0", None, Some(2))
            .device("0000:03:00.0", Some("vfio-pci"), None)
            .device("0000:04:00.0", Some("vfio-pci"), Some(4))
            .device("0000:04:00.1", Some("snd_hda_intel"), Some(4))
            .device("0000:05:00.0", Some("vfio-pci"), Some(5));
        for (names, expected) in [
            (&["0000:09:00.0"][..], "lspci -D"),
            (&["/sys/bus/pci/devices/0000:99:00.0"], "lspci -D"),
            (&["nvme0"], "is no PCI device"),
            (&["01:00.0"], "host driver nvme; bind it to vfio-pci"),
            (&["02:00.0"], "no driver; bind it to vfio-pci"),
            (&["03:00.0"], "no IOMMU group"),
            (&["04:00.0"], "IOMMU group 4 with devices that the host uses: 0000:04:00.1 (snd_hda_intel)"),
            (&["05:00.0", "0000:05:00.0"], "same device as 05:00.0"),
        ] {
            let text = host.error(names);
            assert!(text.contains(expected), "{text}");
        }
    }
}
