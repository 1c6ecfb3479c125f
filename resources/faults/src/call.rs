//! The calls that can be refused: those of the way of an interrupt.

use std::str::FromStr;

/// A system call, or a request of ioctl(2).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Call {
    /// eventfd2(2).
    Eventfd,
    /// epoll_ctl(2).
    EpollCtl,
    /// `KVM_SET_GSI_ROUTING`.
    KvmSetGsiRouting,
    /// `KVM_IRQFD` without `KVM_IRQFD_FLAG_DEASSIGN`.
    KvmIrqfdAttach,
    /// `KVM_IRQFD` with `KVM_IRQFD_FLAG_DEASSIGN`. The kernel has no reason to refuse it to a process that does not err.
    KvmIrqfdDetach,
    /// `KVM_SIGNAL_MSI`.
    KvmSignalMsi,
    /// `VFIO_DEVICE_SET_IRQS`.
    VfioSetIrqs,
}

/// A name that is no call's.
#[derive(Debug)]
pub struct UnknownCall(String);

impl Call {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Eventfd,
        Self::EpollCtl,
        Self::KvmSetGsiRouting,
        Self::KvmIrqfdAttach,
        Self::KvmIrqfdDetach,
        Self::KvmSignalMsi,
        Self::VfioSetIrqs,
    ];

    /// Its name on a command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eventfd => "eventfd",
            Self::EpollCtl => "epoll-ctl",
            Self::KvmSetGsiRouting => "kvm-set-gsi-routing",
            Self::KvmIrqfdAttach => "kvm-irqfd-attach",
            Self::KvmIrqfdDetach => "kvm-irqfd-detach",
            Self::KvmSignalMsi => "kvm-signal-msi",
            Self::VfioSetIrqs => "vfio-set-irqs",
        }
    }

    /// Its number (x86-64's or arm64's, as compiled).
    pub(crate) const fn number(self) -> i64 {
        match self {
            Self::Eventfd => libc::SYS_eventfd2,
            Self::EpollCtl => libc::SYS_epoll_ctl,
            _ => libc::SYS_ioctl,
        }
    }

    /// The request, of an ioctl (linux/kvm.h, linux/vfio.h).
    pub(crate) const fn request(self) -> Option<u32> {
        match self {
            Self::Eventfd | Self::EpollCtl => None,
            Self::KvmSetGsiRouting => Some(0x4008_ae6a),
            Self::KvmIrqfdAttach | Self::KvmIrqfdDetach => Some(0x4020_ae76),
            Self::KvmSignalMsi => Some(0x4020_aea5),
            Self::VfioSetIrqs => Some(0x3b6e),
        }
    }

    /// The call of this number and second argument. What a `KVM_IRQFD` does is not known from them.
    pub(crate) fn of(number: i64, argument: u64) -> Option<Self> {
        // The kernel takes the low half of a request.
        let low = argument as u32;
        Self::ALL
            .into_iter()
            .find(|call| call.number() == number && call.request().is_none_or(|request| request == low))
    }
}

impl FromStr for Call {
    type Err = UnknownCall;

    fn from_str(name: &str) -> Result<Self, UnknownCall> {
        Self::ALL.into_iter().find(|call| call.name() == name).ok_or_else(|| UnknownCall(name.to_owned()))
    }
}

impl std::fmt::Display for UnknownCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` is none of {}", self.0, Call::ALL.map(Call::name).join(", "))
    }
}

impl std::error::Error for UnknownCall {}
