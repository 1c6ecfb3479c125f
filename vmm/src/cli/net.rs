//! The values of `--net`: a tap, and the network device in front of it.

use std::str::FromStr;

use super::parameters::{self, LONGEST_ID, ParameterError, set};
use crate::pci::DeviceFunction;
use crate::tap::{TapName, TapNameError};
use crate::virtio::net::{Datapath, MacAddress, MacAddressError};

/// Most queue pairs of a device. Each has a thread; the kernel's taps have at most 256 queues.
const MOST_QUEUES: u16 = 64;

/// A network device: `tap=NAME[,mac=MAC][,queues=N][,vhost=on|off][,id=NAME][,addr=DD.F]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetOption {
    /// The tap.
    pub tap: TapName,
    /// The address of the guest's interface.
    pub mac: MacAddress,
    /// Pairs of a receive queue and a transmit queue.
    pub queues: u16,
    /// Where packets are moved.
    pub datapath: Datapath,
    /// Its name in messages and in the report.
    pub id: Option<String>,
    /// Its address in the guest. The VMM chooses one otherwise.
    pub address: Option<DeviceFunction>,
}

/// Why a `--net` value is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetOptionError {
    /// There is no tap.
    #[error("no tap is named; expected tap=NAME")]
    NoTap,
    /// A parameter is invalid.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// The tap's name is invalid.
    #[error(transparent)]
    Tap(#[from] TapNameError),
    /// The MAC address is invalid.
    #[error(transparent)]
    Mac(#[from] MacAddressError),
}

const KNOWN: &str = "tap=NAME, mac=MAC, queues=N, vhost=on|off, id=NAME and addr=DD.F";

impl FromStr for NetOption {
    type Err = NetOptionError;

    fn from_str(text: &str) -> Result<Self, NetOptionError> {
        let (mut tap, mut mac, mut queues, mut datapath) = (None, None, None, None);
        let (mut id, mut address) = (None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("tap", value)) => set("tap", &mut tap, value.parse::<TapName>()?)?,
                Some(("mac", value)) => set("mac", &mut mac, value.parse()?)?,
                Some(("queues", value)) => {
                    set("queues", &mut queues, parameters::queues(value, MOST_QUEUES)?)?
                }
                Some(("vhost", value)) => set("vhost", &mut datapath, parse_vhost(value)?)?,
                Some(("id", value)) => set("id", &mut id, parameters::id(value, LONGEST_ID)?)?,
                Some(("addr", value)) => set("addr", &mut address, parameters::address(value)?)?,
                _ => return Err(ParameterError::unknown(part, KNOWN).into()),
            }
        }
        let tap = tap.ok_or(NetOptionError::NoTap)?;
        let mac = mac.unwrap_or_else(|| MacAddress::for_tap(&tap));
        let (queues, datapath) = (queues.unwrap_or(1), datapath.unwrap_or_default());
        Ok(Self { tap, mac, queues, datapath, id, address })
    }
}

fn parse_vhost(value: &str) -> Result<Datapath, ParameterError> {
    parameters::switch("vhost", value, [Datapath::Vhost, Datapath::Vmm])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_alone_is_one_pair_of_queues_in_the_vmm() {
        let option: NetOption = "tap=tap0".parse().unwrap();
        assert_eq!((option.tap.as_str(), option.queues, option.datapath), ("tap0", 1, Datapath::Vmm));
        assert_eq!((option.mac, option.id, option.address), (MacAddress::for_tap(&option.tap), None, None));
    }

    #[test]
    fn parameters_come_in_any_order() {
        let text = "addr=1f.7,vhost=on,queues=4,id=lan,mac=02:00:00:00:00:07,tap=a";
        let option: NetOption = text.parse().unwrap();
        assert_eq!((option.tap.as_str(), option.queues, option.datapath), ("a", 4, Datapath::Vhost));
        assert_eq!(
            (option.id.as_deref(), option.mac.to_string().as_str()),
            (Some("lan"), "02:00:00:00:00:07")
        );
        assert_eq!(option.address, Some(DeviceFunction::from_bits(0xff)));
        assert_eq!("tap=a,vhost=off".parse::<NetOption>().unwrap().datapath, Datapath::Vmm);
    }

    #[test]
    fn errors_name_the_parameter_and_what_is_expected() {
        for (text, says) in [
            ("", "no parameter \"\"; there are tap=NAME, mac=MAC"),
            ("tap0", "no parameter \"tap0\""),
            ("queues=2", "no tap is named; expected tap=NAME"),
            ("tap=", "tap=: expected the name of an interface"),
            ("tap=a,tap=b", "tap is given twice"),
            ("tap=a,mac=1", "mac=1: expected the address of one interface"),
            ("tap=a,queues=0", "queues=0: expected a number from 1 to 64"),
            ("tap=a,queues=65", "queues=65"),
            ("tap=a,queues=+1", "queues=+1"),
            ("tap=a,vhost=yes", "vhost=yes: expected on or off"),
            ("tap=a,id=", "id=: expected 1 to 32 letters"),
            ("tap=a,addr=20.0", "addr=20.0: expected a device number from 01 to 1f"),
            ("tap=a,bridge=b", "no parameter \"bridge=b\""),
        ] {
            let said = text.parse::<NetOption>().unwrap_err().to_string();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
