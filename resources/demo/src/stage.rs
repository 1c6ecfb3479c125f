//! What a run takes place on: a lab host with the devices in it, or this machine with the one that was named.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use guest::{Host, Result, sha256};
use lab::{At, Cache, Config, Device, Disk, Lab, Series};

/// The smallest disk: a guest reads the first part of it.
const DISK_MIB: u64 = 64;
/// Entries of the disk's MSI-X table. A guest uses one for each queue.
const DISK_VECTORS: u16 = 2048;
const DISK_QUEUES: u16 = 64;

/// A host, and the addresses of the devices for the guest.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) host: Host,
    pub(crate) devices: Vec<String>,
    disk: Option<PathBuf>,
}

impl Stage {
    /// A lab host on this kernel, with a disk of random content and a doorbell, both bound to vfio-pci.
    pub(crate) fn lab(cache: &Cache, series: Series, vectors: u16, read_mib: u64) -> Result<Self> {
        let disk = random_disk(cache, read_mib.max(DISK_MIB))?;
        let nvme =
            Device::Nvme { vectors: DISK_VECTORS, queues: DISK_QUEUES, disk: Disk::File(disk.clone()) };
        let lab = Lab::boot(cache, Config::new(series).device(nvme).device(Device::ivshmem(vectors)))?;
        let devices = vec![lab.bind_to_vfio(0)?, lab.bind_to_vfio(1)?];
        Ok(Self { host: Host::Lab(Box::new(lab)), devices, disk: Some(disk) })
    }

    /// A lab host with a doorbell alone.
    pub(crate) fn doorbell(cache: &Cache, series: Series) -> Result<Self> {
        let lab = Lab::boot(cache, Config::new(series).device(Device::ivshmem(64)))?;
        let devices = vec![lab.bind_to_vfio(0)?];
        Ok(Self { host: Host::Lab(Box::new(lab)), devices, disk: None })
    }

    /// A lab host with what [`bench`](crate::bench) measures: a doorbell, a disk with one queue, and one with four; and
    /// the same again, for a second guest beside the first. Their interrupts go to the CPUs that guests run on, each
    /// guest's alike: one on the first CPU, which no guest keeps busy, would be an advantage.
    pub(crate) fn bench(cache: &Cache, series: Series, vectors: u16) -> Result<Self> {
        let disk = |queues| Device::Nvme { vectors: DISK_VECTORS, queues, disk: Disk::Blank(DISK_MIB << 20) };
        let share = || [Device::ivshmem(vectors), disk(1), disk(4)];
        let devices = [share(), share()].concat();
        let count = devices.len();
        let lab = Lab::boot(cache, devices.into_iter().fold(Config::new(series), Config::device))?;
        let devices = (0..count).map(|device| lab.bind_to_vfio(device)).collect::<lab::Result<_>>()?;
        let host = Host::Lab(Box::new(lab));
        host.shell("printf %x $(((1 << $(nproc --all)) - 2)) >/proc/irq/default_smp_affinity")?;
        Ok(Self { host, devices, disk: None })
    }

    /// This machine. The device is taken as it is: whether it can be spared is for its owner to say.
    pub(crate) fn here(address: &str) -> Result<Self> {
        match lab::vfio::driver(address)?.as_deref() {
            Some("vfio-pci") => Ok(Self { host: Host::Here, devices: vec![address.to_owned()], disk: None }),
            other => {
                let state =
                    other.map_or("not bound to any driver".to_owned(), |name| format!("bound to {name}"));
                let cure = format!("it is {state}; if it can be spared: target/release/lab bind {address}");
                Err(lab::Error::Device(address.to_owned(), cure).into())
            }
        }
    }

    /// The digest of the first bytes of the disk's file, if we know the file.
    pub(crate) fn disk_digest(&self, bytes: u64) -> Result<Option<String>> {
        let Some(path) = &self.disk else { return Ok(None) };
        let mut content = Vec::new();
        let read = fs::File::open(path).and_then(|file| file.take(bytes).read_to_end(&mut content));
        read.at("read", path)?;
        Ok(Some(sha256(&content)))
    }
}

/// A disk whose content nobody can know beforehand.
fn random_disk(cache: &Cache, mib: u64) -> Result<PathBuf> {
    let path = cache.root().join("demo-disk.img");
    let mut disk = fs::File::create(&path).at("create", &path)?;
    let mut noise = fs::File::open("/dev/urandom").at("read", "/dev/urandom")?.take(mib << 20);
    std::io::copy(&mut noise, &mut disk).at("write", &path)?;
    Ok(path)
}
