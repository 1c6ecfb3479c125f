//! The rows of the matrix: a device of QEMU's, how a guest drives it, and the work that shows that it does.
//!
//! The work is checked by digest: what a disk holds, what the user network's TFTP server has, what came out of a serial port.

use std::path::Path;

/// The work that a guest does with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Reads the first MiB of a disk, past the page cache.
    Disk,
    /// Fetches a file.
    Link,
    /// Writes to a serial port.
    Serial,
    /// Sends random bytes to the device's buffer by DMA, and has them back.
    Dma,
    /// Asks a sound controller's codec what it is.
    Codec,
}

impl Work {
    /// The topic of the guest's line.
    pub(super) fn topic(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Link => "link",
            Self::Serial => "serial",
            Self::Dma => "dma",
            Self::Codec => "codec",
        }
    }

    /// The guest's job.
    pub(super) fn job(self) -> String {
        match self {
            Self::Disk => format!("disks:{DISK_MIB}"),
            Self::Link => "links".to_owned(),
            Self::Serial => "serials:4096".to_owned(),
            Self::Dma => format!("dmas:{DMA_BYTES}"),
            Self::Codec => "codecs".to_owned(),
        }
    }
}

/// How much goes to a device and back.
pub(super) const DMA_BYTES: u64 = 64 << 10;
/// What QEMU's duplex codec says.
pub(super) const CODEC: &str = "Vendor Id: 0x1af40022\n";

/// How much of a disk is read.
pub(super) const DISK_MIB: u64 = 4;

/// A device of the lab host.
pub(super) struct Device {
    pub(super) name: &'static str,
    /// QEMU's `-device`, to which the bus is added.
    qemu: &'static str,
    /// More of QEMU's arguments. `FILE` stands for the disk's file and `DIR` for the directory with everything.
    backend: &'static [&'static str],
    /// The modaliases of what the guest finds behind the function.
    pub(super) behind: &'static [&'static str],
    pub(super) work: Work,
    /// What goes to guests: the device, or so many virtual functions of it. Then the lab host's driver has the device.
    pub(super) functions: Functions,
}

/// The functions of a device that guests have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Functions {
    /// The device's own.
    Physical,
    /// So many virtual functions, with this driver of the host for the physical one.
    Virtual { count: usize, driver: &'static str },
}

/// What VFIO needs of a virtio device: it reaches memory through the IOMMU.
macro_rules! virtio {
    ($device:literal) => {
        concat!($device, ",disable-legacy=on,iommu_platform=on")
    };
}

const SCSI_DISK: &str = "scsi:t-0x00";

/// In this order they are behind the lab host's root ports.
pub(super) const DEVICES: &[Device] = &[
    Device {
        name: "nvme",
        qemu: "nvme,serial=matrix,drive=d0,msix_qsize=1000,max_ioqpairs=64",
        backend: &["-drive", "if=none,id=d0,format=raw,snapshot=on,file.locking=off,file=FILE"],
        behind: &[],
        work: Work::Disk,
        functions: Functions::Physical,
    },
    Device {
        name: "ahci",
        qemu: "ich9-ahci,id=sata",
        backend: &[
            "-drive",
            "if=none,id=d1,format=raw,snapshot=on,file.locking=off,file=FILE",
            "-device",
            "ide-hd,drive=d1,bus=sata.0",
        ],
        behind: &[SCSI_DISK],
        work: Work::Disk,
        functions: Functions::Physical,
    },
    Device {
        name: "virtio-blk",
        qemu: virtio!("virtio-blk-pci,drive=d2"),
        backend: &["-drive", "if=none,id=d2,format=raw,snapshot=on,file.locking=off,file=FILE"],
        behind: &["virtio:d00000002v00001AF4"],
        work: Work::Disk,
        functions: Functions::Physical,
    },
    Device {
        name: "virtio-scsi",
        qemu: virtio!("virtio-scsi-pci,id=vscsi"),
        backend: &[
            "-drive",
            "if=none,id=d3,format=raw,snapshot=on,file.locking=off,file=FILE",
            "-device",
            "scsi-hd,drive=d3,bus=vscsi.0",
        ],
        behind: &["virtio:d00000008v00001AF4", SCSI_DISK],
        work: Work::Disk,
        functions: Functions::Physical,
    },
    Device {
        name: "xhci",
        qemu: "qemu-xhci,id=usb",
        backend: &[
            "-drive",
            "if=none,id=d4,format=raw,snapshot=on,file.locking=off,file=FILE",
            "-device",
            "usb-storage,drive=d4,bus=usb.0",
        ],
        behind: &["usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00", SCSI_DISK],
        work: Work::Disk,
        functions: Functions::Physical,
    },
    Device {
        name: "igb",
        qemu: "igb,romfile=,netdev=n5",
        backend: NETWORKS[0],
        behind: &[],
        work: Work::Link,
        functions: Functions::Physical,
    },
    Device {
        name: "e1000e",
        qemu: "e1000e,romfile=,netdev=n6",
        backend: NETWORKS[1],
        behind: &[],
        work: Work::Link,
        functions: Functions::Physical,
    },
    Device {
        name: "vmxnet3",
        qemu: "vmxnet3,romfile=,netdev=n7",
        backend: NETWORKS[2],
        behind: &[],
        work: Work::Link,
        functions: Functions::Physical,
    },
    Device {
        name: "virtio-net",
        qemu: virtio!("virtio-net-pci,romfile=,netdev=n8"),
        backend: NETWORKS[3],
        behind: &["virtio:d00000001v00001AF4"],
        work: Work::Link,
        functions: Functions::Physical,
    },
    Device {
        name: "e1000",
        qemu: "e1000,romfile=,netdev=n9",
        backend: NETWORKS[4],
        behind: &[],
        work: Work::Link,
        functions: Functions::Physical,
    },
    Device {
        name: "rtl8139",
        qemu: "rtl8139,romfile=,netdev=n10",
        backend: NETWORKS[5],
        behind: &[],
        work: Work::Link,
        functions: Functions::Physical,
    },
    Device {
        name: "pci-serial",
        qemu: "pci-serial,chardev=serial",
        backend: &["-chardev", "file,id=serial,path=DIR/serial"],
        behind: &[],
        work: Work::Serial,
        functions: Functions::Physical,
    },
    Device {
        name: "igbvf",
        qemu: "igb,romfile=,netdev=n11",
        backend: NETWORKS[6],
        behind: &[],
        work: Work::Link,
        functions: Functions::Virtual { count: 4, driver: "igb" },
    },
    Device {
        name: "edu",
        qemu: "edu",
        backend: &[],
        behind: &[],
        work: Work::Dma,
        functions: Functions::Physical,
    },
    Device {
        name: "intel-hda",
        qemu: "ich9-intel-hda,id=hda",
        backend: &["-audiodev", "none,id=silence", "-device", "hda-duplex,audiodev=silence,bus=hda.0"],
        behind: &["hdaudio:v1AF40022r00100101a01"],
        work: Work::Codec,
        functions: Functions::Physical,
    },
];

const NETWORKS: [&[&str]; 7] = [
    &["-netdev", "user,id=n5,tftp=DIR"],
    &["-netdev", "user,id=n6,tftp=DIR"],
    &["-netdev", "user,id=n7,tftp=DIR"],
    &["-netdev", "user,id=n8,tftp=DIR"],
    &["-netdev", "user,id=n9,tftp=DIR"],
    &["-netdev", "user,id=n10,tftp=DIR"],
    &["-netdev", "user,id=n11,tftp=DIR"],
];

impl Device {
    pub(super) fn in_lab(&self) -> lab::Device {
        lab::Device::Other(self.qemu.to_owned())
    }

    /// QEMU's arguments for what is behind the device.
    pub(super) fn arguments(&self, dir: &Path, disk: &Path) -> impl Iterator<Item = String> {
        let [dir, disk] = [dir, disk].map(|path| path.display().to_string().replace(',', ",,"));
        self.backend.iter().map(move |word| word.replace("FILE", &disk).replace("DIR", &dir))
    }
}

/// A guest of the matrix: one device, and what its kernel is told.
pub(super) struct Row {
    /// Index into [`DEVICES`].
    pub(super) device: usize,
    /// How many of its functions.
    pub(super) functions: usize,
    pub(super) cpus: u32,
    /// A parameter of the guest's kernel.
    pub(super) parameter: Option<(&'static str, &'static str)>,
}

impl Row {
    /// Each device by itself, and some of them with fewer or more means.
    pub(super) fn all() -> Vec<Self> {
        let plain = (0..DEVICES.len()).map(Self::plain);
        let number =
            |name| DEVICES.iter().position(|device| device.name == name).expect("a device of the table");
        let without_msi = ["nvme", "ahci", "igb", "vmxnet3"]
            .map(|name| Self { parameter: Some(("pci", "nomsi")), ..Self::plain(number(name)) });
        let with_many_cpus = Self { cpus: 12, ..Self::plain(number("nvme")) };
        let with_four_functions = Self { functions: 4, ..Self::plain(number("igbvf")) };
        plain.chain(without_msi).chain([with_many_cpus, with_four_functions]).collect()
    }

    fn plain(device: usize) -> Self {
        Self { device, functions: 1, cpus: 2, parameter: None }
    }

    pub(super) fn device(&self) -> &'static Device {
        &DEVICES[self.device]
    }

    pub(super) fn name(&self) -> String {
        let parameter = self.parameter.map_or(String::new(), |(name, value)| format!(", {name}={value}"));
        let functions = if self.functions == 1 { String::new() } else { format!(" x{}", self.functions) };
        let cpus = if self.cpus == 2 { String::new() } else { format!(", {} vCPUs", self.cpus) };
        format!("{}{functions}{cpus}{parameter}", self.device().name)
    }
}
