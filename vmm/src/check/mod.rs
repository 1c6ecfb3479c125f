//! `vmm check`: what this host can do for guests, and what to do about each missing thing.
//!
//! A [`Host`] is a list of findings: KVM (`kvm`), the IOMMU with its groups and VFIO (`iommu`), vhost (`vhost`), and limits (`limits`). Nothing is changed,
//! and no device is opened. The findings of a fake sysfs are tested with [`Roots`].

mod iommu;
mod kvm;
mod limits;
mod vhost;

use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::{Value, json};

use iommu::Group;

/// The directories that are examined.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into() }
    }
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    /// As it should be.
    Good,
    /// Guests run, with less than they could have.
    Lesser,
    /// No guest with passed-through devices runs.
    NoDevices,
    /// No guest runs.
    NoGuests,
}

impl Grade {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Lesser => "note",
            Self::NoDevices | Self::NoGuests => "MISSING",
        }
    }
}

/// One thing that was examined.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    /// A short name that stays the same, for programs.
    name: &'static str,
    grade: Grade,
    detail: String,
    /// What to do about it, if something is missing.
    remedy: Option<String>,
}

impl Finding {
    fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, grade: Grade::Good, detail: detail.into(), remedy: None }
    }

    fn missing(
        name: &'static str,
        grade: Grade,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { name, grade, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

/// What a host can do.
#[derive(Debug, Clone)]
pub struct Host {
    findings: Vec<Finding>,
    groups: Vec<Group>,
}

impl Host {
    /// Examines this machine.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let mut host = Self::of_directories(&Roots::default());
        host.findings.splice(0..0, kvm::findings());
        host.findings.extend(limits::findings());
        host
    }

    /// Examines the IOMMU and VFIO in these directories.
    #[must_use]
    pub fn of_directories(roots: &Roots) -> Self {
        let groups = iommu::groups(roots);
        let mut findings = iommu::findings(roots, &groups);
        findings.extend(vhost::findings(roots));
        Self { findings, groups }
    }

    /// Whether guests run.
    #[must_use]
    pub fn runs_guests(&self) -> bool {
        self.findings.iter().all(|finding| finding.grade != Grade::NoGuests)
    }

    /// Whether guests with passed-through devices run.
    #[must_use]
    pub fn passes_devices_through(&self) -> bool {
        self.findings.iter().all(|finding| matches!(finding.grade, Grade::Good | Grade::Lesser))
    }

    /// Writes a line for each finding and IOMMU group, and the conclusion.
    ///
    /// # Errors
    /// The writer's error.
    pub fn write_lines(&self, mut out: impl Write) -> io::Result<()> {
        for finding in &self.findings {
            writeln!(out, "{:8} {:16} {}", finding.grade.word(), finding.name, finding.detail)?;
            if let Some(remedy) = &finding.remedy {
                writeln!(out, "{:25} -> {remedy}", "")?;
            }
        }
        for group in &self.groups {
            let state = if group.is_viable() { "ok" } else { "note" };
            writeln!(out, "{state:8} {:16} {group}", format!("group {}", group.number))?;
        }
        let conclusion = match (self.runs_guests(), self.passes_devices_through()) {
            (_, true) => "Guests run here, with passed-through devices.",
            (true, false) => "Guests run here, but without passed-through devices.",
            (false, false) => "No guest runs here.",
        };
        writeln!(out, "{conclusion}")
    }

    /// Writes the same as JSON.
    ///
    /// # Errors
    /// The writer's error.
    pub fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        writeln!(out, "{:#}", self.json())
    }

    fn json(&self) -> Value {
        let findings = self.findings.iter().map(|finding| {
            json!({
                "name": finding.name,
                "state": finding.grade.word().to_lowercase(),
                "detail": finding.detail,
                "remedy": finding.remedy,
            })
        });
        json!({
            "guests": self.runs_guests(),
            "passed_through_devices": self.passes_devices_through(),
            "findings": findings.collect::<Vec<_>>(),
            "iommu_groups": self.groups.iter().map(Group::json).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    /// A temporary host.
    struct Fake(Roots);

    impl Fake {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("vmm-check-{}-{name}", std::process::id()));
            let roots = Roots { sys: root.join("sys"), dev: root.join("dev") };
            fs::create_dir_all(&roots.sys).unwrap();
            fs::create_dir_all(roots.dev.join("vfio")).unwrap();
            Self(roots)
        }

        fn with_iommu(self) -> Self {
            fs::create_dir_all(self.0.sys.join("class/iommu/dmar0")).unwrap();
            self
        }

        fn with_vfio(self) -> Self {
            for module in ["vfio_pci", "vfio_iommu_type1"] {
                fs::create_dir_all(self.0.sys.join("module").join(module)).unwrap();
            }
            fs::write(self.0.dev.join("vfio/vfio"), "").unwrap();
            self
        }

        fn device(self, address: &str, group: u32, driver: Option<&str>) -> Self {
            let device = self.0.sys.join("bus/pci/devices").join(address);
            fs::create_dir_all(&device).unwrap();
            if let Some(driver) = driver {
                symlink(Path::new("/drivers").join(driver), device.join("driver")).unwrap();
            }
            let group = self.0.sys.join(format!("kernel/iommu_groups/{group}/devices"));
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join(address), "").unwrap();
            self
        }

        fn host(&self) -> Host {
            Host::of_directories(&self.0)
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            fs::remove_dir_all(self.0.sys.parent().unwrap()).unwrap();
        }
    }

    fn lines(host: &Host) -> String {
        let mut out = Vec::new();
        host.write_lines(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_host_with_a_device_on_vfio_passes_devices_through() {
        let fake = Fake::new("good").with_iommu().with_vfio();
        let fake =
            fake.device("0000:01:00.0", 7, Some("vfio-pci")).device("0000:00:01.0", 7, Some("pcieport"));
        let host = fake.host();
        let said = lines(&host);
        assert!(host.passes_devices_through() && host.runs_guests(), "{said}");
        assert!(said.contains("group 7") && said.contains("0000:01:00.0 (vfio-pci)"), "{said}");
        assert!(said.ends_with("with passed-through devices.\n"), "{said}");
    }

    #[test]
    fn each_missing_part_has_its_remedy() {
        for (fake, name, remedy) in [
            (Fake::new("no-iommu").with_vfio(), "iommu", "intel_iommu=on"),
            (
                Fake::new("no-vfio").with_iommu().device("0000:01:00.0", 1, None),
                "vfio-pci",
                "modprobe vfio-pci",
            ),
        ] {
            let host = fake.host();
            let said = lines(&host);
            assert!(!host.passes_devices_through() && host.runs_guests(), "{said}");
            let finding = host.findings.iter().find(|finding| finding.name == name).unwrap();
            assert!(finding.remedy.as_ref().unwrap().contains(remedy), "{said}");
            assert!(said.ends_with("without passed-through devices.\n"), "{said}");
        }
    }

    #[test]
    fn a_device_of_the_host_makes_its_group_unusable_and_is_named() {
        let fake = Fake::new("shared").with_iommu().with_vfio();
        let fake = fake.device("0000:02:00.0", 2, Some("vfio-pci")).device("0000:02:00.1", 2, Some("nvme"));
        let host = fake.host();
        let json = host.json();
        assert_eq!(json["iommu_groups"][0]["usable"], false);
        assert_eq!(json["iommu_groups"][0]["devices"][1]["driver"], "nvme");
        let devices = host.findings.iter().find(|finding| finding.name == "devices").unwrap();
        assert_eq!(devices.grade, Grade::Lesser, "no device is bound yet, which hinders nobody");
        assert!(host.passes_devices_through());
        assert!(lines(&host).contains("0000:02:00.1 (nvme)"));
    }

    #[test]
    fn the_json_says_what_the_lines_say() {
        let host = Fake::new("json").with_vfio().host();
        let json = host.json();
        assert_eq!((&json["guests"], &json["passed_through_devices"]), (&true.into(), &false.into()));
        let findings = json["findings"].as_array().unwrap();
        let missing: Vec<_> = findings.iter().filter(|finding| finding["state"] == "missing").collect();
        assert!(!missing.is_empty() && missing.iter().all(|finding| finding["remedy"].is_string()));
    }
}
