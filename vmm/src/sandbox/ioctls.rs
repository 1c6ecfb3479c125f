//! Requests of ioctl that threads make while a guest runs, by what they do.

use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};

const KVM: u32 = 0xae;
const VFIO: u32 = 0x3b;
const VHOST_TYPE: u32 = 0xaf;
const TUN: u32 = 0x54;
const READ_WRITE: u32 = _IOC_READ | _IOC_WRITE;

/// linux/ioctl.h: a request without an argument's size.
const fn plain(kind: u32, number: u32) -> u64 {
    ioctl_expr(_IOC_NONE, kind, number, 0)
}

const fn reads(kind: u32, number: u32, size: u32) -> u64 {
    ioctl_expr(_IOC_READ, kind, number, size)
}

const fn writes(kind: u32, number: u32, size: u32) -> u64 {
    ioctl_expr(_IOC_WRITE, kind, number, size)
}

/// KVM_RUN.
pub(super) const RUN: &[u64] = &[plain(KVM, 0x80)];

/// The terminal (asm-generic/ioctls.h), which a panic of any thread restores, and whether descriptors block.
pub(super) const RUNTIME: &[u64] = &[
    // TCGETS, TCSETS, TCSETSW, TCSETSF; TIOCGWINSZ
    0x5401,
    0x5402,
    0x5403,
    0x5404,
    0x5413,
    // TCGETS2, TCSETS2, TCSETSW2, TCSETSF2
    reads(TUN, 0x2a, 44),
    writes(TUN, 0x2b, 44),
    writes(TUN, 0x2c, 44),
    writes(TUN, 0x2d, 44),
    // FIONREAD, FIONBIO, FIOCLEX
    0x541b,
    0x5421,
    0x5451,
];

/// Interrupts: KVM_SIGNAL_MSI, KVM_IRQFD, KVM_SET_GSI_ROUTING, KVM_IRQ_LINE, KVM_CHECK_EXTENSION.
pub(super) const INTERRUPTS: &[u64] = &[
    writes(KVM, 0xa5, 32),
    writes(KVM, 0x76, 32),
    writes(KVM, 0x6a, 8),
    writes(KVM, 0x61, 8),
    plain(KVM, 0x03),
];

/// BARs: KVM_SET_USER_MEMORY_REGION, KVM_IOEVENTFD. A crash: KVM_GET_REGS, KVM_GET_SREGS.
pub(super) const MACHINE: &[u64] =
    &[writes(KVM, 0x46, 32), writes(KVM, 0x79, 64), reads(KVM, 0x81, 0x90), reads(KVM, 0x83, 0x138)];

/// VFIO: GET_INFO, GET_REGION_INFO, GET_IRQ_INFO, SET_IRQS, RESET, IOMMU_MAP_DMA, IOMMU_UNMAP_DMA.
pub(super) const DEVICES: &[u64] = &[
    plain(VFIO, 107),
    plain(VFIO, 108),
    plain(VFIO, 109),
    plain(VFIO, 110),
    plain(VFIO, 111),
    plain(VFIO, 113),
    plain(VFIO, 114),
];

/// Taps: TUNSETOFFLOAD, TUNSETQUEUE, TUNSETVNETHDRSZ, TUNSETVNETLE.
pub(super) const TAPS: &[u64] =
    &[writes(TUN, 208, 4), writes(TUN, 217, 4), writes(TUN, 216, 4), writes(TUN, 220, 4)];

/// vhost (linux/vhost.h): features, memory, rings and the backend; VHOST_VSOCK_SET_GUEST_CID, VHOST_VSOCK_SET_RUNNING.
pub(super) const VHOST: &[u64] = &[
    reads(VHOST_TYPE, 0x00, 8),
    writes(VHOST_TYPE, 0x00, 8),
    plain(VHOST_TYPE, 0x01),
    plain(VHOST_TYPE, 0x02),
    writes(VHOST_TYPE, 0x03, 8),
    writes(VHOST_TYPE, 0x10, 8),
    writes(VHOST_TYPE, 0x11, 40),
    writes(VHOST_TYPE, 0x12, 8),
    ioctl_expr(READ_WRITE, VHOST_TYPE, 0x12, 8),
    writes(VHOST_TYPE, 0x20, 8),
    writes(VHOST_TYPE, 0x21, 8),
    writes(VHOST_TYPE, 0x22, 8),
    writes(VHOST_TYPE, 0x30, 8),
    writes(VHOST_TYPE, 0x60, 8),
    writes(VHOST_TYPE, 0x61, 4),
];
