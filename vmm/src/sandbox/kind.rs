//! The kinds of threads, the calls that each may make besides those of every thread, and the capabilities that each keeps.
//!
//! A new kind is a variant, an entry of [`Kind::ALL`], and an arm of each match.

use rustix::thread::CapabilitySet;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGWINCH};
use vmm_sys_util::signal::block_signal;

use super::calls::numbers;
use super::{Named, ioctls};
use crate::report::ReportTarget;

/// A kind of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The event loop of the main thread, which writes reports and takes the machine down.
    Main,
    /// A virtual CPU.
    Vcpu,
    /// A side loop: host vectors, and interrupt stores.
    Maintenance,
    /// A lane of a virtio disk.
    Disk,
    /// A thread that makes a disk's operations where the host has no io_uring.
    DiskWorker,
    /// A lane of a virtio network device.
    Net,
    /// The lane of the virtio socket device.
    Vsock,
    /// A lane of a virtio device that only reads and writes: the console and the entropy device.
    Stream,
}

impl Kind {
    pub(super) const ALL: &[Self] = &[
        Self::Main,
        Self::Vcpu,
        Self::Maintenance,
        Self::Disk,
        Self::DiskWorker,
        Self::Net,
        Self::Vsock,
        Self::Stream,
    ];

    /// The kind of the lanes of a virtio device, by its name in reports.
    #[must_use]
    pub fn of_virtio(name: &str) -> Self {
        match name {
            "blk" => Self::Disk,
            "net" => Self::Net,
            "vsock" => Self::Vsock,
            _ => Self::Stream,
        }
    }

    /// Calls besides those of every thread, with any arguments.
    pub(super) fn calls(self) -> &'static [i64] {
        match self {
            Self::Main => numbers!(
                SYS_open SYS_openat SYS_access SYS_readlink SYS_getcwd SYS_stat SYS_rename SYS_renameat SYS_renameat2 SYS_unlink
                SYS_unlinkat SYS_ftruncate SYS_sendto SYS_recvfrom SYS_shutdown SYS_io_uring_enter
            ),
            Self::Vcpu | Self::Maintenance | Self::Stream => &[],
            Self::Disk => numbers!(
                SYS_io_uring_enter SYS_preadv SYS_preadv2 SYS_pwritev SYS_pwritev2 SYS_fdatasync SYS_fsync SYS_fallocate
            ),
            Self::DiskWorker => numbers!(
                SYS_preadv SYS_preadv2 SYS_pwritev SYS_pwritev2 SYS_fdatasync SYS_fsync SYS_fallocate
            ),
            Self::Net => numbers!(SYS_preadv SYS_pwritev),
            Self::Vsock => numbers!(
                SYS_connect SYS_accept4 SYS_recvfrom SYS_recvmsg SYS_sendto SYS_sendmsg SYS_shutdown SYS_getsockopt
                SYS_unlink SYS_unlinkat
            ),
        }
    }

    /// The lists of its requests of ioctl.
    pub(super) fn ioctls(self) -> &'static [&'static [u64]] {
        match self {
            Self::Main => {
                &[ioctls::INTERRUPTS, ioctls::MACHINE, ioctls::DEVICES, ioctls::TAPS, ioctls::VHOST]
            }
            Self::Vcpu => &[ioctls::RUN, ioctls::INTERRUPTS, ioctls::MACHINE, ioctls::DEVICES],
            Self::Maintenance => &[ioctls::INTERRUPTS, ioctls::DEVICES],
            Self::Disk | Self::Stream => &[ioctls::INTERRUPTS],
            Self::Vsock => &[ioctls::INTERRUPTS, ioctls::VHOST],
            Self::DiskWorker => &[],
            Self::Net => &[ioctls::INTERRUPTS, ioctls::TAPS, ioctls::VHOST],
        }
    }

    /// The capabilities that it keeps, if it has them.
    ///
    /// VFIO maps BARs for DMA while the guest runs, and asks for CAP_IPC_LOCK when it accounts the memory. The directories of the
    /// report and of sockets may be another user's.
    pub(super) fn capabilities(self, named: Named) -> CapabilitySet {
        let files = CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER;
        match self {
            Self::Main if matches!(named.report, Some(ReportTarget::File(_))) => {
                CapabilitySet::IPC_LOCK | files
            }
            Self::Main | Self::Vcpu | Self::Maintenance => CapabilitySet::IPC_LOCK,
            Self::Vsock if named.socket.is_some() => files,
            Self::Disk | Self::DiskWorker | Self::Net | Self::Vsock | Self::Stream => CapabilitySet::empty(),
        }
    }

    /// Whether it may make Unix sockets.
    pub(super) fn makes_sockets(self) -> bool {
        self == Self::Vsock
    }

    /// Whether a call for a file's name fails with an error instead of ending the process.
    pub(super) fn has_no_files(self) -> bool {
        self != Self::Main
    }

    /// Leaves the signals of the event loop to the main thread. Their handlers write to sockets.
    pub(super) fn block_signals(self) {
        if self != Self::Main {
            for signal in [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGWINCH] {
                // It fails if the signal is blocked already.
                let _ = block_signal(signal);
            }
        }
    }
}
