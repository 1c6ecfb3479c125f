//! The report of our VMM (`--report`), as far as tests and the demonstration read it.
//!
//! All of it is held against its schema, `vmm/report.schema.json`, whatever is read of it.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use lab::At;

use crate::error::{Error, Result};
use crate::host::Host;

/// The whole report.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// Every device on the guest's bus that reports.
    pub devices: Vec<DeviceReport>,
    /// The VM's interrupt routes.
    pub routes: Routes,
}

/// Holds a report against the schema.
///
/// # Errors
/// What is wrong with it.
pub fn check(report: &Value) -> Result<(), String> {
    const SCHEMA: &str = include_str!("../../../vmm/report.schema.json");
    const NAME: &str = "report.schema.json";
    let schema = serde_json::from_str(SCHEMA).map_err(|error| error.to_string())?;
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource(NAME, schema).map_err(|error| error.to_string())?;
    let schema = compiler.compile(NAME, &mut schemas).map_err(|error| format!("{error:#}"))?;
    schemas.validate(report, schema).map_err(|error| format!("{error:#}"))
}

/// One device.
#[derive(Clone, Debug, Deserialize)]
pub struct DeviceReport {
    /// Its address on the guest's bus, without the segment.
    pub place: String,
    /// Its address on the host, if it is passed through.
    pub host_address: Option<String>,
    /// Its BARs, if it is passed through.
    #[serde(default)]
    pub bars: Vec<Bar>,
    /// How often the guest has reset it.
    #[serde(default)]
    pub guest_resets: u64,
    /// Its INTx, if it is passed through and has one.
    pub intx: Option<Intx>,
    /// Its MSI, if it is passed through.
    pub msi: Option<Msix>,
    /// Its MSI-X, if it is passed through.
    pub msix: Option<Msix>,
    /// Which virtio device it is, if it is one of the VMM's own.
    pub virtio: Option<String>,
    /// The name of the device.
    pub id: Option<String>,
    /// Its queues, if it is a virtio device of the VMM's own.
    #[serde(default)]
    pub queues: Vec<Queue>,
    /// How many operations of a disk failed in the host.
    #[serde(default)]
    pub host_errors: u64,
    /// How many packets of the guest broke a rule, if it is a socket device.
    pub violations: Option<u64>,
    /// The MSI-X of a device of the VMM's own.
    pub software_msix: Option<SoftwareMsix>,
    /// Its slots, if a device of the host's fires them.
    pub mediated_slots: Option<MediatedSlots>,
}

/// A queue of a virtio device.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Queue {
    /// The driver has enabled it.
    pub enabled: bool,
    /// The MSI-X vector of its interrupts, if it has one.
    pub vector: Option<u32>,
    /// Requests taken.
    pub requests: u64,
    /// Of these, those that break a rule.
    pub invalid: u64,
    /// Interrupts triggered.
    pub notified: u64,
}

/// One BAR.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Bar {
    /// Its number.
    pub bar: u32,
    /// Bytes that the guest reads without an exit, but does not write so.
    pub read_only_bytes: u64,
    /// Reads that took an exit.
    pub trapped_reads: u64,
    /// Writes that took one.
    pub trapped_writes: u64,
}

/// Slots that a device of the host's fires.
#[derive(Clone, Debug, Deserialize)]
pub struct MediatedSlots {
    /// The device's address on the host.
    pub host_address: String,
    /// What became of them.
    pub domain: Domain,
    /// The device's host vectors.
    pub pool: Pool,
}

/// A physical device's host vectors.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Pool {
    /// What was done so far.
    pub counters: PoolCounters,
}

/// What a pool has done.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct PoolCounters {
    /// Host vectors given to slots, and to the mediator.
    pub claims: u64,
    /// Interrupts that came for one that nobody held.
    pub strays: u64,
    /// Times MSI-X was turned on in the host.
    pub opens: u64,
    /// Times it was turned off.
    pub closes: u64,
}

/// The MSI-X of a device of the VMM's own.
#[derive(Clone, Debug, Deserialize)]
pub struct SoftwareMsix {
    /// Entries of the table.
    pub vectors: u32,
    /// What became of the triggers.
    pub counters: SoftwareCounters,
    /// Those that are in use.
    pub in_use: Vec<Vector>,
}

/// What a device of the VMM's own has triggered.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct SoftwareCounters {
    /// Interrupts delivered.
    pub delivered: u64,
    /// Triggers that had to wait.
    pub latched: u64,
    /// Triggers of vectors that were off.
    pub dropped: u64,
    /// Deliveries that the host refused.
    pub host_failures: u64,
}

/// One device's INTx.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Intx {
    /// The GSI that its pin drives in the guest.
    pub gsi: u32,
    /// It is enabled in the host.
    pub enabled: bool,
    /// How many interrupts the host's kernel has taken for it since it was enabled, if that can be told.
    pub host_interrupts: Option<u64>,
    /// Steps that the host refused.
    pub host_failures: u64,
}

/// One device's MSI or MSI-X.
#[derive(Clone, Debug, Deserialize)]
pub struct Msix {
    /// How many the guest is shown.
    pub vectors: u32,
    /// What became of them.
    pub domain: Domain,
}

/// One interrupt domain.
#[derive(Clone, Debug, Deserialize)]
pub struct Domain {
    /// MSI-X is on in the host.
    pub open: bool,
    /// Vectors with a host vector and an eventfd.
    pub host_vectors: u32,
    /// Of these, the ones attached to the guest.
    pub live: u32,
    /// Of these, the ones the guest gave back, kept in case it wants them again.
    pub expiring: u32,
    /// What was done so far.
    pub counters: Counters,
    /// Those that are in use.
    pub vectors: Vec<Vector>,
}

/// One vector.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Vector {
    /// Its index.
    pub vector: u32,
    /// Of a mediated device, the host vector that fires it now.
    pub host_vector: Option<u32>,
    /// How many interrupts the host's kernel has taken for it since it was requested.
    pub host_interrupts: Option<u64>,
}

/// What a domain has done.
#[derive(Clone, Debug, Deserialize)]
pub struct Counters {
    /// Host vectors requested.
    /// Host vectors requested.
    pub binds: u64,
    /// Times MSI-X was turned on in the host.
    pub opens: u64,
    /// Times it was turned off.
    pub closes: u64,
    /// Steps that the host refused.
    pub host_failures: u64,
    /// The most host vectors at one time.
    pub high_water: u32,
    /// Vectors that were bound again because their device had lost them.
    pub rebinds: u64,
}

/// The VM's interrupt routes.
#[derive(Clone, Debug, Deserialize)]
pub struct Routes {
    /// Messages that have a GSI.
    pub published: u64,
    /// Of these, the ones some vector is live on.
    pub in_use: u64,
    /// Times the table was sent to KVM.
    pub commits: u64,
}

impl Report {
    /// Has the VMM with this process id on a host write one now, to the path that it was started with, and reads it.
    ///
    /// # Errors
    /// The VMM does not write it; or as [`Report::read`].
    pub fn request(host: &Host, pid: u32, path: &Path) -> Result<Self> {
        let file = path.display();
        host.shell(&format!(
            "rm -f '{file}'; kill -USR1 {pid}; for i in $(seq 200); do test -f '{file}' && exit; sleep 0.1; done; exit 1"
        ))?;
        Self::read(path)
    }

    /// Reads one from the file that the VMM left.
    ///
    /// # Errors
    /// It is not there, or not as its schema says.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).at("read", path)?;
        let wrong = |why: String| Error::Report(format!("{}: {why}", path.display()));
        let report = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        check(&report).map_err(wrong)?;
        serde_json::from_value(report).map_err(|error| wrong(error.to_string()))
    }

    /// What it says about the triggers of this virtio device.
    pub fn triggers(&self, virtio: &str) -> Option<SoftwareCounters> {
        let found = self.devices.iter().find(|device| device.virtio.as_deref() == Some(virtio));
        Some(found?.software_msix.as_ref()?.counters)
    }

    /// What it says about the device with this name.
    pub fn named(&self, id: &str) -> Option<&DeviceReport> {
        self.devices.iter().find(|device| device.id.as_deref() == Some(id))
    }

    /// What it says about each function of mediated devices, in the order in which the guest has them.
    pub fn mediated(&self) -> impl Iterator<Item = &MediatedSlots> {
        self.devices.iter().filter_map(|device| device.mediated_slots.as_ref())
    }

    /// What it says about the MSI-X of the device at this address of the host.
    pub fn msix(&self, host_address: &str) -> Option<&Msix> {
        self.passed_through(host_address)?.msix.as_ref()
    }

    /// What it says about the MSI of the device at this address of the host.
    pub fn msi(&self, host_address: &str) -> Option<&Msix> {
        self.passed_through(host_address)?.msi.as_ref()
    }

    /// What it says about the device at this address of the host.
    pub fn passed_through(&self, host_address: &str) -> Option<&DeviceReport> {
        self.devices.iter().find(|device| device.host_address.as_deref() == Some(host_address))
    }
}
