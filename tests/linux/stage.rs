//! The hosts that tests share, and guests on them: a lab host for each host kernel, or this machine.
//!
//! A lab host is booted by the first test that needs it and lives as long as this process, or until it is broken. Where
//! it does not boot, every test of it fails with the same reason, without trying again. A lab host has every device; this machine has
//! those that its owner names (`own.rs`), and a test does without the others as far as it can.

use std::fmt;
use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use guest::{Event, Host, Image, Machine, Monitor, Result, Session, Tools, Transcript, sha256};
use lab::{At, Cache, Config, Device, Disk, Lab, Refresh, Series};

use crate::own;
pub(crate) use crate::passed::{Addresses, Passed, say};

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
/// The link between two Ethernet controllers.
const LINK: [&str; 4] = ["-netdev", "hubport,id=realtek,hubid=0", "-netdev", "hubport,id=intel,hubid=0"];
/// The VMM's own devices: their virtio IDs, and their classes in modaliases.
const NET: (u16, &str) = (1, "bc02sc00");
const BLOCK: (u16, &str) = (2, "bc01sc80");
const CONSOLE: (u16, &str) = (3, "bc07sc80");
const ENTROPY: (u16, &str) = (4, "bcFFsc00");
const SOCKETS: (u16, &str) = (19, "bc07sc80");
/// Vendor and device of the one that nobody uses, and of the one that has a host driver.
pub(crate) const SPARE_IN_SHARED_GROUP: &str = "1b36:0005";
pub(crate) const USED_IN_SHARED_GROUP: &str = "1af4:1005";

/// The modaliases of a function of the VMM's own, and of the virtio device behind it.
fn virtio_aliases((id, class): (u16, &str)) -> [String; 2] {
    let function = format!("pci:v00001AF4d0000{:04X}sv00001AF4sd00001100{class}i00", 0x1040 + id);
    [function, format!("virtio:d{id:08X}v00001AF4")]
}

/// A SATA disk with the content of this file, and a USB device. The NVMe disk has the file as well, so writes to the SATA
/// disk do not reach it.
fn behind_controllers(file: &Path) -> [String; 6] {
    let file = file.display().to_string().replace(',', ",,");
    [
        "-drive".to_owned(),
        format!("if=none,id=on-sata,format=raw,snapshot=on,file.locking=off,file={file}"),
        "-device".to_owned(),
        "ide-hd,drive=on-sata,bus=sata.0".to_owned(),
        "-device".to_owned(),
        "usb-tablet,bus=usb.0".to_owned(),
    ]
}

/// A host with devices bound to vfio-pci.
pub(crate) struct Stage {
    pub(crate) place: Where,
    pub(crate) host: Host,
    cache: Cache,
    addresses: Addresses,
    /// The content of both disks, if it is known.
    disk: Option<fs::File>,
}

/// Where a test runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Where {
    /// On the lab host of this kernel.
    Lab(Series),
    /// On this machine.
    Own,
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lab(series) => write!(f, "host {series}"),
            Self::Own => write!(f, "this machine"),
        }
    }
}

/// Each host that is booted, or the reason why it is not.
struct Stages {
    dynamic: Option<Result<Stage, String>>,
    noresize: Option<Result<Stage, String>>,
    own: Option<Result<Stage, String>>,
}

impl Stages {
    fn place(&mut self, place: Where) -> &mut Option<Result<Stage, String>> {
        match place {
            Where::Lab(Series::V6_12) => &mut self.dynamic,
            Where::Lab(Series::V6_1) => &mut self.noresize,
            Where::Own => &mut self.own,
        }
    }

    fn stage(&mut self, place: Where) -> &Stage {
        let made = || match place {
            Where::Lab(series) => Stage::boot(series),
            Where::Own => Stage::own(),
        };
        let stage = self.place(place).get_or_insert_with(|| made().map_err(|error| error.to_string()));
        stage.as_ref().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Runs a test on a shared host.
///
/// An emulated host fails in ways of its own (`Broken`). A test is tried once more then, on a new one, and what is known
/// of the old one is printed: each such line is a finding to look into. What a test finds wrong is never tried again.
pub(crate) fn on(place: Where, test: fn(&Stage) -> Result<()>) {
    // Two guests at once on an emulated host would time each other out; a failed test does not spoil the next.
    static STAGES: Mutex<Stages> = Mutex::new(Stages { dynamic: None, noresize: None, own: None });
    let mut stages = STAGES.lock().unwrap_or_else(PoisonError::into_inner);
    GUEST_CRASHED.store(false, Ordering::Relaxed);
    let broken = match attempt(stages.stage(place), test) {
        Ok(()) => return,
        Err(broken) => broken,
    };
    say(&format!("{place}: {broken}; trying once more, on a new one"));
    *stages.place(place) = None;
    test(stages.stage(place)).unwrap_or_else(|error| panic!("{error}"));
}

/// How an emulated host fails tests of its own accord. A fault of the VMM may look the same, so what is known is printed.
enum Broken {
    /// Something was not done in time, and what the host was at then: it loses interrupts of its CPUs now and then, and
    /// what runs on such a CPU sleeps for ever.
    Stalled { error: String, cpus: String },
    /// A guest ended by a triple fault. That was seen twice, before lab hosts kept their guests off the CPU whose SVM
    /// state the emulator breaks; that this was the cause is likely and not proved.
    GuestCrashed,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stalled { error, cpus } => {
                write!(f, "THE EMULATED HOST OR ITS GUEST STALLED ({error})\n{cpus}\n")
            }
            Self::GuestCrashed => write!(f, "THE GUEST CRASHED (triple fault)"),
        }
    }
}

/// Runs a test, and says whether the emulated host may be to blame where it did not pass.
fn attempt(stage: &Stage, test: fn(&Stage) -> Result<()>) -> Result<(), Broken> {
    let run = || match test(stage) {
        Err(guest::Error::Lab(error)) if error.is_stall() => Some(error),
        other => {
            other.unwrap_or_else(|error| panic!("{error}"));
            None
        }
    };
    let lab = stage.host.lab().ok();
    match (catch_unwind(AssertUnwindSafe(run)), lab) {
        (Ok(None), _) => Ok(()),
        (Ok(Some(error)), Some(lab)) => {
            let cpus = lab.cpus().unwrap_or_else(|error| error.to_string());
            Err(Broken::Stalled { error: error.to_string(), cpus })
        }
        (Ok(Some(error)), None) => panic!("{error}"),
        (Err(_), Some(_)) if GUEST_CRASHED.load(Ordering::Relaxed) => Err(Broken::GuestCrashed),
        (Err(failure), _) => resume_unwind(failure),
    }
}

/// Whether a guest of the running test ended by a triple fault.
static GUEST_CRASHED: AtomicBool = AtomicBool::new(false);

impl Stage {
    fn boot(series: Series) -> Result<Self> {
        let cache = Cache::open()?;
        lab::provision(&cache, &Series::ALL, Refresh::Keep)?;
        let path = cache.root().join(format!("test-disk-{series}-{}.img", std::process::id()));
        let disk = noise(&path).at("create", &path)?;
        let nvme = Device::Nvme { vectors: 2048, queues: 64, disk: Disk::File(path.clone()) };
        // In the order of `Passed`.
        let sata = Device::Other("ich9-ahci,id=sata".to_owned());
        let usb = Device::Other("qemu-xhci,id=usb,msi=on,msix=off".to_owned());
        let rom = cache.root().join(format!("test-rom-{series}-{}.rom", std::process::id()));
        fs::write(&rom, rom_image()).at("write", &rom)?;
        let card = Device::Other(format!("igb,romfile={}", rom.display()));
        let realtek = Device::Other("rtl8139,netdev=realtek".to_owned());
        let intel = Device::Other("e1000,netdev=intel".to_owned());
        let (bell, wide) = (Device::ivshmem(64), Device::ivshmem(2048));
        let devices = [nvme, bell, wide, Device::E1000e, card, sata, usb, realtek, intel];
        let config = devices.into_iter().fold(Config::new(series), Config::device);
        let config = config
            .qemu_arguments(LINK)
            .qemu_arguments(SHARED_GROUP)
            .qemu_arguments(behind_controllers(&path));
        let lab = Lab::boot(&cache, config.trace_msix())?;
        // The lab host has it open, and so do we: it goes when both are gone.
        fs::remove_file(&path).at("remove", &path)?;
        fs::remove_file(&rom).at("remove", &rom)?;
        let mut addresses = [const { None }; Passed::ALL.len()];
        for (number, address) in addresses.iter_mut().enumerate() {
            *address = Some(lab.bind_to_vfio(number)?);
        }
        Ok(Self {
            place: Where::Lab(series),
            host: Host::Lab(Box::new(lab)),
            cache,
            addresses,
            disk: Some(disk),
        })
    }

    /// This machine, with the devices that its owner names.
    fn own() -> Result<Self> {
        let addresses = own::devices()?;
        let cache = Cache::open()?;
        lab::provision(&cache, &Series::ALL, Refresh::Keep)?;
        Ok(Self { place: Where::Own, host: Host::Here, cache, addresses, disk: None })
    }

    /// Whether the host has this device.
    pub(crate) fn has(&self, device: Passed) -> bool {
        self.addresses[device as usize].is_some()
    }

    /// Whether the host has one of these devices at least; says so where a test is skipped because it has none.
    pub(crate) fn has_one_of(&self, devices: &[Passed]) -> bool {
        let has = devices.iter().any(|&device| self.has(device));
        if !has {
            say(&format!("{}: SKIPPED, there is none of {devices:?} among its devices", self.place));
        }
        has
    }

    /// The address of a device that the host has.
    pub(crate) fn address(&self, device: Passed) -> &str {
        self.addresses[device as usize].as_deref().unwrap_or_else(|| panic!("the host has no {device:?}"))
    }

    /// A guest with those of these devices that the host has. Its VMM reports.
    pub(crate) fn guest(&self, kernel: Series, tools: Tools, devices: &[Passed]) -> Result<Machine> {
        let report = self.host.scratch().join("report.json");
        let machine = Machine::new(&Image::build(&self.cache, kernel, tools)?).cpus(2).report(report);
        let present = devices.iter().filter(|&&device| self.has(device));
        Ok(present.fold(machine, |machine, &device| machine.vfio(self.address(device))))
    }

    /// Gives a guest those of these jobs for which the host has the device.
    pub(crate) fn jobs(&self, machine: Machine, jobs: &[&str]) -> Machine {
        let can = |job: &&&str| match job.split(':').next() {
            Some("nvme") => self.has(Passed::Disk),
            Some("grow" | "shrink" | "pound" | "move" | "suspend" | "reload") => {
                [Passed::Doorbell, Passed::Wide, Passed::Card].iter().any(|&device| self.has(device))
            }
            Some("regrow") => self.has(Passed::Card),
            Some("sata") => self.has(Passed::Sata),
            _ => true,
        };
        jobs.iter().filter(can).fold(machine, |machine, job| machine.job(job))
    }

    /// A guest with the VMM's own entropy device, and the drivers for it.
    pub(crate) fn guest_with_rng(&self, kernel: Series) -> Result<Machine> {
        Ok(self.guest_with_virtio(kernel, Tools::None, ENTROPY)?.rng())
    }

    /// A guest with four CPUs and the VMM's own disks, by the values of `--disk`, and the drivers for them.
    pub(crate) fn guest_with_disks(&self, disks: &[String]) -> Result<Machine> {
        let arguments = disks.iter().flat_map(|disk| ["--disk".to_owned(), disk.clone()]);
        Ok(self.guest_with_virtio(Series::V6_12, Tools::None, BLOCK)?.cpus(4).arguments(arguments))
    }

    /// A guest with the drivers of the VMM's own network devices.
    pub(crate) fn guest_with_net(&self) -> Result<Machine> {
        self.guest_with_virtio(Series::V6_12, Tools::None, NET)
    }

    /// A guest with the driver of the VMM's own console.
    pub(crate) fn guest_with_console(&self) -> Result<Machine> {
        self.guest_with_virtio(Series::V6_12, Tools::None, CONSOLE)
    }

    /// A guest with the driver of the VMM's own socket device, and a program that uses it.
    pub(crate) fn guest_with_sockets(&self) -> Result<Machine> {
        self.guest_with_virtio(Series::V6_12, Tools::Sockets, SOCKETS)
    }

    fn guest_with_virtio(&self, kernel: Series, tools: Tools, kind: (u16, &str)) -> Result<Machine> {
        let image = Image::with_drivers(&self.cache, kernel, tools, &virtio_aliases(kind))?;
        Ok(Machine::new(&image).cpus(2).report(self.host.scratch().join("report.json")))
    }

    /// A guest with four CPUs, the doorbells, and one of each of the VMM's own devices that need nothing of the host but this disk.
    pub(crate) fn guest_with_each_kind(&self, disk: &Path) -> Result<Machine> {
        let drivers = [ENTROPY, BLOCK].map(virtio_aliases).concat();
        let drivers: Vec<_> = drivers.iter().map(String::as_str).collect();
        let disk = format!("path={},queues=2", disk.display());
        let own = ["--device", "ims-queues,slots=64", "--device", "ims-timer", "--disk", &disk];
        Ok(self.guest_with_all(&[Passed::Doorbell, Passed::Wide], &drivers)?.cpus(4).rng().arguments(own))
    }

    /// The static busybox, at a path that this machine and the host share.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.cache.busybox()
    }

    /// A guest with this device, and its kernel's own drivers for devices of these modaliases.
    pub(crate) fn guest_with_drivers(&self, device: Passed, modaliases: &[&str]) -> Result<Machine> {
        self.guest_with_all(&[device], modaliases)
    }

    /// A guest with these devices in this order, and its kernel's own drivers for devices of these modaliases.
    pub(crate) fn guest_with_all(&self, devices: &[Passed], modaliases: &[&str]) -> Result<Machine> {
        self.guest_with(Tools::None, devices, modaliases)
    }

    /// The same, with a program.
    pub(crate) fn guest_with(
        &self,
        tools: Tools,
        devices: &[Passed],
        modaliases: &[&str],
    ) -> Result<Machine> {
        let modaliases = modaliases.iter().map(|alias| (*alias).to_owned()).collect::<Vec<_>>();
        let image = Image::with_drivers(&self.cache, Series::V6_12, tools, &modaliases)?;
        let machine = Machine::new(&image).cpus(2).report(self.host.scratch().join("report.json"));
        Ok(devices.iter().fold(machine, |machine, &device| machine.vfio(self.address(device))))
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

    /// The digest of the first bytes of the disk, where we know what is on it.
    pub(crate) fn disk_digest(&self, bytes: u64) -> Option<String> {
        let mut content = vec![0; bytes.try_into().unwrap()];
        self.disk.as_ref()?.read_exact_at(&mut content, 0).unwrap();
        Some(sha256(&content))
    }

    /// Begins to watch MSI-X Enable in the doorbells' hardware.
    pub(crate) fn watch_msix_enable(&self) -> Result<EnableWatch<'_>> {
        Ok(EnableWatch { stage: self, seen: self.msix_enable()?.map_or(0, |states| states.len()) })
    }

    /// Every state until now of MSI-X Enable in the doorbells' hardware. Only an emulated host can tell.
    fn msix_enable(&self) -> Result<Option<Vec<bool>>> {
        let Host::Lab(lab) = &self.host else { return Ok(None) };
        let states = lab.msix_trace()?.into_iter().filter(|state| state.device == "ivshmem-doorbell");
        Ok(Some(states.map(|state| state.enabled).collect()))
    }
}

/// MSI-X Enable in the doorbells' hardware, from one moment on.
pub(crate) struct EnableWatch<'stage> {
    stage: &'stage Stage,
    /// States that were there before.
    seen: usize,
}

impl EnableWatch<'_> {
    /// Once it was turned on, the device's MSI-X stayed on.
    pub(crate) fn assert_never_off(self) -> Result<()> {
        let Some(states) = self.stage.msix_enable()? else {
            say("not seen: MSI-X Enable in the hardware, which only an emulated host can tell");
            return Ok(());
        };
        let enable = &states[self.seen..];
        let first_on = enable.iter().position(|&on| on).expect("MSI-X was never turned on");
        assert!(enable[first_on..].iter().all(|&on| on), "MSI-X went off: {enable:?}");
        Ok(())
    }
}

/// Waits until the guest has reached its `hold` job.
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
/// The VMM's status for a guest whose kernel panicked.
pub(crate) const PANICKED: i32 = 4;

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

/// The expansion ROM of the Ethernet controller: an image for EFI, which the lab host's firmware does not run, with a
/// pattern behind its headers.
pub(crate) fn rom_image() -> Vec<u8> {
    const BYTES: usize = 64 << 10;
    let mut image: Vec<u8> = (0..BYTES).map(|at| (at * 7 + at / 256) as u8).collect();
    image[..0x40].fill(0);
    image[..2].copy_from_slice(&[0x55, 0xaa]);
    // Where the PCI data structure is (PCI Firmware 3.3 §5.1.2).
    image[0x18] = 0x1c;
    image[0x1c..0x24].copy_from_slice(&[b'P', b'C', b'I', b'R', 0x86, 0x80, 0xc9, 0x10]);
    image[0x26..0x28].copy_from_slice(&[0x18, 0]);
    // Class, length in units of 512 bytes, code type EFI, last image.
    image[0x29..0x2c].copy_from_slice(&[0, 0, 2]);
    image[0x2c] = (BYTES / 512) as u8;
    image[0x30..0x32].copy_from_slice(&[3, 0x80]);
    image
}

/// A disk with random content.
fn noise(path: &Path) -> std::io::Result<fs::File> {
    let mut disk = fs::File::options().read(true).write(true).create_new(true).open(path)?;
    let mut noise = fs::File::open("/dev/urandom")?.take(64 << 20);
    std::io::copy(&mut noise, &mut disk)?;
    Ok(disk)
}
