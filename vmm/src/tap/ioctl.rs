//! The ioctls of TUN/TAP descriptors (linux/if_tun.h) and of network interfaces, one function each.
//!
//! Contains the `unsafe` for taps. The functions accept any descriptor: one that is no tap's returns the kernel's error.

use std::fs::File;
use std::io;
use std::net::UdpSocket;

use libc::{
    IFNAMSIZ, SIOCGIFFLAGS, SIOCGIFMTU, TUNSETIFF, TUNSETOFFLOAD, TUNSETQUEUE, TUNSETVNETHDRSZ, TUNSETVNETLE,
};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};

use super::TapName;

/// `struct ifreq`: a name and a union.
#[repr(C, align(8))]
struct InterfaceRequest {
    name: [u8; IFNAMSIZ],
    value: [u8; 24],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());
const _: () = assert!(align_of::<InterfaceRequest>() >= align_of::<libc::ifreq>());

impl InterfaceRequest {
    fn new(name: &TapName, flags: u16) -> Self {
        let mut request = Self { name: [0; IFNAMSIZ], value: [0; 24] };
        // A name is shorter than IFNAMSIZ, so a zero byte follows it.
        request.name.iter_mut().zip(name.as_str().bytes()).for_each(|(to, from)| *to = from);
        request.value.iter_mut().zip(flags.to_ne_bytes()).for_each(|(to, from)| *to = from);
        request
    }

    fn word(&self) -> u32 {
        let [a, b, c, d, ..] = self.value;
        u32::from_ne_bytes([a, b, c, d])
    }
}

/// TUNSETIFF: connects the descriptor to the interface, which is created if it does not exist.
pub(super) fn set_interface(tap: &File, name: &TapName, flags: u16) -> io::Result<()> {
    let mut request = InterfaceRequest::new(name, flags);
    // SAFETY: `request` has the size and the alignment of `struct ifreq`, of which the kernel reads and writes all.
    answer(unsafe { ioctl_with_mut_ref(tap, TUNSETIFF, &mut request) })
}

/// TUNSETQUEUE: attaches the descriptor's queue of an interface with several, or detaches it.
pub(super) fn set_queue(tap: &File, name: &TapName, flags: u16) -> io::Result<()> {
    let request = InterfaceRequest::new(name, flags);
    // SAFETY: `request` has the size and the alignment of `struct ifreq`, which the kernel only reads.
    answer(unsafe { ioctl_with_ref(tap, TUNSETQUEUE, &request) })
}

/// TUNSETVNETHDRSZ: the length of the virtio header before each packet.
pub(super) fn set_header_length(tap: &File, bytes: i32) -> io::Result<()> {
    // SAFETY: the kernel reads one int.
    answer(unsafe { ioctl_with_ref(tap, TUNSETVNETHDRSZ, &bytes) })
}

/// TUNSETVNETLE: the virtio header is little-endian.
pub(super) fn set_little_endian(tap: &File) -> io::Result<()> {
    let yes: i32 = 1;
    // SAFETY: the kernel reads one int.
    answer(unsafe { ioctl_with_ref(tap, TUNSETVNETLE, &yes) })
}

/// TUNSETOFFLOAD: the packets that the reader accepts besides complete ones.
pub(super) fn set_offload(tap: &File, offloads: u32) -> io::Result<()> {
    // SAFETY: the request takes a number.
    answer(unsafe { ioctl_with_val(tap, TUNSETOFFLOAD, offloads.into()) })
}

/// SIOCGIFFLAGS: the flags of an interface. ENODEV if there is none.
pub(super) fn interface_flags(name: &TapName) -> io::Result<u16> {
    query(name, SIOCGIFFLAGS).map(|word| word as u16)
}

/// SIOCGIFMTU: the MTU of an interface.
pub(super) fn mtu(name: &TapName) -> io::Result<u32> {
    query(name, SIOCGIFMTU)
}

fn query(name: &TapName, request: libc::c_ulong) -> io::Result<u32> {
    // Any socket of the network namespace answers.
    let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut reply = InterfaceRequest::new(name, 0);
    // SAFETY: `reply` has the size and the alignment of `struct ifreq`, of which the kernel reads and writes all.
    answer(unsafe { ioctl_with_mut_ref(&socket, request, &mut reply) })?;
    Ok(reply.word())
}

fn answer(ret: i32) -> io::Result<()> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
