//! The value of `--vsock`: the guest's CID, and the host's end.

use std::path::PathBuf;
use std::str::FromStr;

use super::parameters::{self, LONGEST_ID, ParameterError, set};
use crate::pci::DeviceFunction;
use crate::virtio::vsock::GuestCid;

/// A socket device: `cid=N,socket=PATH[,id=NAME][,addr=DD.F]`, or `vhost=on` instead of the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockOption {
    /// The guest's context identifier.
    pub cid: GuestCid,
    /// The socket on which programs of the host ask for ports of the guest. `None` with vhost=on.
    pub socket: Option<PathBuf>,
    /// Its name in messages and in the report.
    pub id: Option<String>,
    /// Its address in the guest. The VMM chooses one otherwise.
    pub address: Option<DeviceFunction>,
}

/// Why a `--vsock` value is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VsockOptionError {
    /// There is no CID.
    #[error("no CID is given; expected cid=N")]
    NoCid,
    /// There is no socket.
    #[error("no socket is named; expected socket=PATH, without a comma in it, or vhost=on")]
    NoSocket,
    /// There are two ends in the host.
    #[error("socket=PATH and vhost=on are both given; expected one of them")]
    TwoEnds,
    /// A parameter is invalid.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
}

const KNOWN: &str = "cid=N, socket=PATH, vhost=on|off, id=NAME and addr=DD.F";

impl FromStr for VsockOption {
    type Err = VsockOptionError;

    fn from_str(text: &str) -> Result<Self, VsockOptionError> {
        let (mut cid, mut socket, mut vhost) = (None, None, None);
        let (mut id, mut address) = (None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("cid", value)) => set("cid", &mut cid, parameters::cid(value)?)?,
                Some(("socket", "")) => return Err(VsockOptionError::NoSocket),
                Some(("socket", value)) => set("socket", &mut socket, PathBuf::from(value))?,
                Some(("vhost", value)) => {
                    set("vhost", &mut vhost, parameters::switch("vhost", value, [true, false])?)?
                }
                Some(("id", value)) => set("id", &mut id, parameters::id(value, LONGEST_ID)?)?,
                Some(("addr", value)) => set("addr", &mut address, parameters::address(value)?)?,
                _ => return Err(ParameterError::unknown(part, KNOWN).into()),
            }
        }
        let cid = cid.ok_or(VsockOptionError::NoCid)?;
        match (&socket, vhost.unwrap_or(false)) {
            (None, false) => return Err(VsockOptionError::NoSocket),
            (Some(_), true) => return Err(VsockOptionError::TwoEnds),
            (None, true) | (Some(_), false) => {}
        }
        Ok(Self { cid, socket, id, address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_come_in_any_order() {
        let option: VsockOption = "socket=/run/a.sock,addr=05.0,id=agent,cid=3".parse().unwrap();
        assert_eq!((option.cid, option.socket), (GuestCid::new(3).unwrap(), Some("/run/a.sock".into())));
        assert_eq!(
            (option.id.as_deref(), option.address),
            (Some("agent"), Some(DeviceFunction::from_bits(0x28)))
        );
    }

    #[test]
    fn the_host_has_a_socket_or_vhost() {
        let socket = |text: &str| text.parse::<VsockOption>().unwrap().socket;
        assert_eq!(socket("cid=3,vhost=on"), None);
        assert_eq!(socket("cid=3,vhost=off,socket=a"), Some("a".into()));
    }

    #[test]
    fn errors_name_the_parameter_and_what_is_expected() {
        for (text, says) in [
            ("socket=a", "no CID is given; expected cid=N"),
            ("cid=3", "no socket is named"),
            ("cid=3,socket=", "no socket is named"),
            ("cid=3,vhost=off", "no socket is named"),
            ("cid=3,socket=a,vhost=on", "both given"),
            ("cid=3,vhost=1", "vhost=1: expected on or off"),
            ("cid=2,socket=a", "cid=2: expected a number from 3 to 4294967294"),
            ("cid=4294967295,socket=a", "cid=4294967295"),
            ("cid=+3,socket=a", "cid=+3"),
            ("cid=3,cid=4,socket=a", "cid is given twice"),
            ("cid=3,socket=a,queues=2", "no parameter \"queues=2\""),
        ] {
            let said = text.parse::<VsockOption>().unwrap_err().to_string();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
