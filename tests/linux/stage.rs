//! The lab hosts that tests share, one for each host kernel, and guests on them.
//!
//! A lab host is booted by the first test that needs it and lives as long as this process. Where it does not boot,
//! every test of it fails with the same reason, without trying again.

use std::fs;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use guest::{Event, Host, Image, Machine, Monitor, Result, Session, Tools, Transcript, sha256};
use lab::{Cache, Config, Device, Disk, Lab, Refresh, Series};

/// A device of the lab host, by its number there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Passed {
    /// An NVMe disk with 2048 vectors.
    Disk = 0,
    /// A doorbell with 64 vectors.
    Doorbell = 1,
    /// A doorbell with 2048 vectors.
    Wide = 2,
    /// An e1000e, for the control.
    Control = 3,
}

/// Two devices behind a bridge to conventional PCI, which cannot tell them apart: one IOMMU group.
const SHARED_GROUP: [&str; 8] = [
    "-device",
    "pcie-root-port,id=shared,bus=pcie.0,addr=0x1e,chassis=30,slot=30",
    "-device",
    "pcie-pci-bridge,id=conventional,bus=shared",
    "-device",
    "pci-testdev,bus=conventional,addr=1",
    "-device",
    "virtio-rng-pci,bus=conventional,addr=2",
];
/// Vendor and device of the one that nobody uses, and of the one that has a host driver.
pub(crate) const SPARE_IN_SHARED_GROUP: &str = "1b36:0005";
pub(crate) const USED_IN_SHARED_GROUP: &str = "1af4:1005";

/// A lab host with its devices bound to vfio-pci.
pub(crate) struct Stage {
    pub(crate) series: Series,
    pub(crate) host: Host,
    cache: Cache,
    addresses: Vec<String>,
    disk: PathBuf,
}

/// Runs a test on the shared lab host of this kernel.
pub(crate) fn on(series: Series, test: fn(&Stage) -> Result<()>) {
    static DYNAMIC: OnceLock<Result<Stage, String>> = OnceLock::new();
    static NORESIZE: OnceLock<Result<Stage, String>> = OnceLock::new();
    // Two guests at once on an emulated host would time each other out; a failed test does not spoil the next.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let stage = match series {
        Series::V6_12 => &DYNAMIC,
        Series::V6_1 => &NORESIZE,
    };
    let stage = stage.get_or_init(|| Stage::boot(series).map_err(|error| error.to_string()));
    let stage = stage.as_ref().unwrap_or_else(|error| panic!("{error}"));
    GUEST_CRASHED.store(false, Ordering::Relaxed);
    let once = || test(stage).unwrap_or_else(|error| panic!("{error}"));
    // What a test shares with the next attempt is the lab host, and that is what it shares with the next test.
    let Err(failure) = catch_unwind(AssertUnwindSafe(once)) else { return };
    if !GUEST_CRASHED.load(Ordering::Relaxed) {
        resume_unwind(failure);
    }
    say(&format!(
        "host {series}: THE GUEST CRASHED (triple fault, cause not known: look into it); trying once more"
    ));
    once();
}

/// Whether a guest of the running test ended by a triple fault. That was seen once, in the middle of a test that passed
/// before and after, and its cause is not known: it may be the emulated host's or ours. A test is tried once more, so
/// that one crash does not hide what the other tests say; each one that is printed is a finding to look into.
static GUEST_CRASHED: AtomicBool = AtomicBool::new(false);

impl Stage {
    fn boot(series: Series) -> Result<Self> {
        let cache = Cache::open()?;
        lab::provision(&cache, &Series::ALL, Refresh::Keep)?;
        let disk = cache.root().join(format!("test-disk-{series}.img"));
        fill_with_noise(&disk).map_err(|source| guest::Error::File {
            action: "create",
            path: disk.clone(),
            source,
        })?;
        let nvme = Device::Nvme { vectors: 2048, queues: 64, disk: Disk::File(disk.clone()) };
        // In the order of `Passed`.
        let devices = [nvme, Device::ivshmem(64), Device::ivshmem(2048), Device::E1000e];
        let count = devices.len();
        let config = devices.into_iter().fold(Config::new(series), Config::device);
        let lab = Lab::boot(&cache, config.qemu_arguments(SHARED_GROUP).trace_msix())?;
        let addresses = (0..count).map(|device| lab.bind_to_vfio(device)).collect::<Result<_, _>>()?;
        Ok(Self { series, host: Host::Lab(Box::new(lab)), cache, addresses, disk })
    }

    /// The address of a device on the host.
    pub(crate) fn address(&self, device: Passed) -> &str {
        &self.addresses[device as usize]
    }

    /// A guest with these devices. Its VMM reports.
    pub(crate) fn guest(&self, kernel: Series, tools: Tools, devices: &[Passed]) -> Result<Machine> {
        let report = self.host.lab()?.scratch().join("report.json");
        let machine = Machine::new(&Image::build(&self.cache, kernel, tools)?).cpus(2).report(report);
        Ok(devices.iter().fold(machine, |machine, &device| machine.vfio(self.address(device))))
    }

    /// A guest with the VMM's own entropy device, and the drivers for it.
    pub(crate) fn guest_with_rng(&self, kernel: Series) -> Result<Machine> {
        let drivers = ["pci:v00001AF4d00001044sv00001AF4sd00001100bcFFsc00i00", "virtio:d00000004v00001AF4"];
        let image = Image::with_drivers(&self.cache, kernel, Tools::None, &drivers.map(str::to_owned))?;
        Ok(Machine::new(&image).cpus(2).rng().report(self.host.lab()?.scratch().join("report.json")))
    }

    /// The kernel's own file.
    pub(crate) fn kernel(&self, series: Series) -> Result<PathBuf> {
        Ok(lab::Kernel::find(&self.cache, series)?.vmlinuz)
    }

    /// Boots it as far as its init.
    pub(crate) fn start(&self, machine: &Machine) -> Result<Session<'_>> {
        Session::start(&self.host, machine, &monitor()?)
    }

    /// Boots it, and sees it through to a good end.
    pub(crate) fn run(&self, machine: &Machine) -> Result<Transcript> {
        finish(self.start(machine)?)
    }

    /// The digest of the first bytes of the disk.
    pub(crate) fn disk_digest(&self, bytes: u64) -> String {
        let mut content = Vec::new();
        fs::File::open(&self.disk).unwrap().take(bytes).read_to_end(&mut content).unwrap();
        sha256(&content)
    }

    /// Every state of MSI-X Enable in the hardware of devices of this kind, until now.
    pub(crate) fn msix_enable(&self, kind: &str) -> Result<Vec<bool>> {
        let states = self.host.lab()?.msix_trace()?;
        Ok(states.into_iter().filter(|state| state.device == kind).map(|state| state.enabled).collect())
    }
}

/// Waits until the guest holds still.
pub(crate) fn hold(session: &mut Session<'_>) -> Result<()> {
    session.until("holding", show).map(drop)
}

/// Sees a guest through to a good end: every job done, power off, status 0.
pub(crate) fn finish(session: Session<'_>) -> Result<Transcript> {
    let seen = session.finish(show)?;
    let failures: Vec<_> = seen.all("failed").map(|line| line.text()).collect();
    assert!(failures.is_empty(), "jobs failed in the guest: {failures:?}");
    seen.line("bye")?;
    assert!(seen.status.is_some_and(|status| status.success()), "the monitor ended: {}", seen.status_text());
    Ok(seen)
}

/// Shown with a test that fails.
pub(crate) fn show(event: &Event) {
    println!("{event:?}");
    if matches!(event, Event::Ended(status) if status.code() == Some(CRASHED)) {
        GUEST_CRASHED.store(true, Ordering::Relaxed);
    }
}

/// The VMM's status for a guest that crashed.
pub(crate) const CRASHED: i32 = 3;

/// Says something that is seen also when the test passes.
pub(crate) fn say(what: &str) {
    // There is nobody to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "    {what}");
}

fn monitor() -> Result<Monitor> {
    match std::env::var("LINUX_TESTS_MONITOR").as_deref() {
        Ok("qemu") => Ok(Monitor::Qemu),
        Ok(other) => panic!("LINUX_TESTS_MONITOR is qemu or not set, not `{other}`"),
        Err(_) => Monitor::ours(),
    }
}

/// Whether the guests are run by our VMM, which reports.
pub(crate) fn is_ours() -> bool {
    monitor().is_ok_and(|monitor| monitor != Monitor::Qemu)
}

fn fill_with_noise(disk: &std::path::Path) -> std::io::Result<()> {
    let mut noise = fs::File::open("/dev/urandom")?.take(64 << 20);
    std::io::copy(&mut noise, &mut fs::File::create(disk)?).map(drop)
}
