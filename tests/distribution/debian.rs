//! A lab host with a disk that has Debian on it, and guests that boot from that disk.
//!
//! What guests write to it lasts as long as the lab host: the image itself is not written to.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use guest::{Host, Monitor, Result, Terminal, sha256};
use lab::{At, Cache, Config, Device, Disk, Lab, Refresh, Series};

/// The host has the first of these addresses, and the guest the second: the image's recipe says so.
pub(crate) const HOST_ADDRESS: &str = "192.168.77.1";
pub(crate) const TAP: &str = "debian";
const NVME_MIB: u64 = 64;

/// The lab host.
pub(crate) struct Stage {
    pub(crate) host: Host,
    /// The passed-through NVMe disk: its address on the host, and the digest of its content.
    pub(crate) nvme: String,
    pub(crate) nvme_digest: String,
    busybox: PathBuf,
}

impl Stage {
    /// Boots a lab host on 6.12, for guests with this kernel.
    pub(crate) fn boot(guest: Series) -> Result<Self> {
        let cache = Cache::open()?;
        lab::provision(&cache, &[Series::V6_12], Refresh::Keep)?;
        let image = lab::distribution(&cache, guest)?;
        let noise = cache.root().join(format!("distribution-nvme-{}.img", std::process::id()));
        let nvme_digest = write_noise(&noise).at("write", &noise)?;
        let nvme = Device::Nvme { vectors: 64, queues: 8, disk: Disk::File(noise.clone()) };
        let drive = format!("if=none,id=debian,format=raw,snapshot=on,file={}", image.display());
        let config = Config::new(Series::V6_12)
            .memory_mib(4096)
            .device(nvme)
            .device(Device::Other("virtio-blk-pci,drive=debian".into()))
            .qemu_arguments(["-drive", &drive]);
        let lab = Lab::boot(&cache, config)?;
        fs::remove_file(&noise).at("remove", &noise)?;
        let nvme = lab.bind_to_vfio(0)?;
        let stage = Self { host: Host::Lab(Box::new(lab)), nvme, nvme_digest, busybox: cache.busybox() };
        stage.host.shell(&format!(
            "modprobe virtio_blk; modprobe tun; modprobe vhost_net
             ip tuntap add {TAP} mode tap vnet_hdr && ip address add {HOST_ADDRESS}/24 dev {TAP} && ip link set {TAP} up"
        ))?;
        Ok(stage)
    }

    /// Boots Debian from the disk to its login prompt, and logs in.
    pub(crate) fn log_in(&self, network: &str) -> Result<Terminal> {
        let Monitor::Vmm(vmm) = Monitor::ours()? else { unreachable!("it is ours") };
        let vmm = vmm.display().to_string();
        let (net, report) = (format!("tap={TAP},{network}"), self.report().display().to_string());
        let words = [
            &vmm,
            "--boot",
            "disk",
            "--disk",
            "path=/dev/vda,queues=2,id=debian",
            "--cpus",
            "2",
            "--memory",
            "1G",
            "--vfio",
            &self.nvme,
            "--net",
            &net,
            "--rng",
            "--report",
            &report,
        ];
        let mut terminal = Terminal::start(&self.host, &words.map(str::to_owned))?;
        terminal.log_in()?;
        Ok(terminal)
    }

    /// The same under QEMU, whose firmware finds no boot loader on the disk: it gets the files that the disk's entry names.
    pub(crate) fn log_in_under_qemu(&self) -> Result<Terminal> {
        self.host.shell(
            "modprobe ext4; mkdir -p /tmp/disk && mount -o ro /dev/vda1 /tmp/disk
             cp -L /tmp/disk/boot/vmlinuz-* /tmp/vmlinuz; cp -L /tmp/disk/boot/initrd.img-* /tmp/initrd; umount /tmp/disk",
        )?;
        let (vfio, net) = (
            format!("vfio-pci,host={}", self.nvme),
            format!("tap,id=net,ifname={TAP},script=no,downscript=no,vhost=on"),
        );
        let words = [
            "qemu-system-x86_64",
            "-machine",
            "q35,accel=kvm",
            "-cpu",
            "host",
            "-smp",
            "2",
            "-m",
            "1G",
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-kernel",
            "/tmp/vmlinuz",
            "-initrd",
            "/tmp/initrd",
            "-append",
            "root=LABEL=guest-root ro console=ttyS0",
            "-device",
            &vfio,
            "-drive",
            "if=none,id=debian,format=raw,cache=none,file=/dev/vda",
            "-device",
            "virtio-blk-pci,disable-legacy=on,num-queues=2,drive=debian",
            "-netdev",
            &net,
            "-device",
            "virtio-net-pci,disable-legacy=on,netdev=net",
            "-device",
            "virtio-rng-pci,disable-legacy=on",
        ];
        let mut terminal = Terminal::start(&self.host, &words.map(str::to_owned))?;
        terminal.log_in()?;
        Ok(terminal)
    }

    /// Where the VMM reports.
    pub(crate) fn report(&self) -> PathBuf {
        self.host.scratch().join("report.json")
    }

    /// Offers a file once on a port of the host, and takes what comes on the next port into another.
    pub(crate) fn serve(&self, sent: &Path, received: &Path) -> Result<()> {
        let (busybox, sent, received) = (self.busybox.display(), sent.display(), received.display());
        // An end that has seen the end of its input closes: the receiver's input is a pipe that does not end.
        self.host.shell(&format!(
            "test -p /tmp/silent || {busybox} mkfifo /tmp/silent
             {busybox} nc -l -p 5000 <{sent} >/dev/null 2>&1 &
             {busybox} nc -l -p 5001 <>/tmp/silent >{received} 2>/dev/null &"
        ))?;
        Ok(())
    }
}

/// Content that nobody can know beforehand, and its digest.
fn write_noise(path: &Path) -> std::io::Result<String> {
    let mut content = Vec::new();
    fs::File::open("/dev/urandom")?.take(NVME_MIB << 20).read_to_end(&mut content)?;
    fs::write(path, &content)?;
    Ok(sha256(&content))
}
