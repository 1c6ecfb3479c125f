//! Why the host does not give us a tap, and what a person does about it.

use std::io;

use libc::{EBUSY, EINVAL, ENODEV, ENOENT, EPERM, IFF_MULTI_QUEUE, IFF_TAP};

use super::TapName;

/// What the host knows of an interface with the tap's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    /// There is no such interface.
    Nothing,
    /// An interface that is neither TUN nor TAP, or of which sysfs does not say so.
    Other,
    /// A TUN or TAP interface with these flags (IFF_TAP and so on).
    Tun(u32),
}

/// The problem with /dev/net/tun, and its remedy.
pub(super) fn of_device(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "/dev/net/tun is not there; modprobe tun".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "/dev/net/tun: permission denied; run as root, or give yourself the file".to_owned()
        }
        _ if [Some(ENOENT), Some(ENODEV)].contains(&error.raw_os_error()) => {
            "/dev/net/tun has no driver; modprobe tun".to_owned()
        }
        _ => format!("/dev/net/tun: {error}"),
    }
}

/// The problem with TUNSETIFF for this many queues, and its remedy.
pub(super) fn of_interface(name: &TapName, queues: u16, existing: Existing, error: &io::Error) -> String {
    let several = if queues > 1 { " multi_queue" } else { "" };
    let make = format!("ip tuntap add {name} mode tap{several} user $(id -un)");
    match (error.raw_os_error(), existing) {
        (Some(EBUSY), Existing::Tun(flags)) if queues > 1 && flags & IFF_MULTI_QUEUE as u32 == 0 => {
            format!(
                "it is in use by another process, and has one queue; {name} needs multi_queue for {queues}"
            )
        }
        (Some(EBUSY), _) => "it is in use by another process; use another tap".to_owned(),
        (Some(EPERM), Existing::Nothing) => {
            format!("there is no such tap, and only CAP_NET_ADMIN can create one; as root: {make}")
        }
        (Some(EPERM), _) => {
            format!("it belongs to another user; as root: ip tuntap del {name} mode tap; {make}")
        }
        (Some(EINVAL), Existing::Tun(flags)) if flags & IFF_TAP as u32 == 0 => {
            "it is a tun, which has no Ethernet; use a tap".to_owned()
        }
        (Some(EINVAL), Existing::Tun(_)) => {
            format!("it was created with one queue; give queues=1, or: ip tuntap del {name} mode tap; {make}")
        }
        (Some(EINVAL), Existing::Other) => "it is an interface of another kind; use a tap".to_owned(),
        (Some(libc::E2BIG), _) => format!("the host's taps have fewer than {queues} queues; give less"),
        _ => format!("the host refuses the tap: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_says_what_to_do() {
        let tap = IFF_TAP as u32;
        for (errno, queues, existing, says) in [
            (EBUSY, 1, Existing::Tun(tap), "in use by another process; use another tap"),
            (EBUSY, 2, Existing::Tun(tap), "needs multi_queue for 2"),
            (EPERM, 1, Existing::Nothing, "as root: ip tuntap add tap0 mode tap user $(id -un)"),
            (EPERM, 4, Existing::Nothing, "ip tuntap add tap0 mode tap multi_queue user"),
            (EPERM, 1, Existing::Tun(tap), "belongs to another user"),
            (EINVAL, 1, Existing::Tun(1), "it is a tun"),
            (EINVAL, 2, Existing::Tun(tap), "give queues=1, or: ip tuntap del tap0 mode tap; ip tuntap add"),
            (EINVAL, 1, Existing::Other, "of another kind; use a tap"),
            (libc::EIO, 1, Existing::Nothing, "refuses the tap: Input/output error"),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            let said = of_interface(&"tap0".parse().unwrap(), queues, existing, &error);
            assert!(said.contains(says), "{said}");
        }
        let said = of_device(&io::Error::from_raw_os_error(ENOENT));
        assert_eq!(said, "/dev/net/tun is not there; modprobe tun");
    }
}
