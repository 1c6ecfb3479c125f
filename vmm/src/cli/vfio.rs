//! The values of `--vfio`: a host device, and how the guest sees it.

use std::path::PathBuf;
use std::str::FromStr;

use super::parameters::{self, LONGEST_ID, ParameterError, set};
use crate::pci::DeviceFunction;
use crate::vfio::PeerToPeer;

/// A device to pass through: `BDF-or-path[,id=NAME][,addr=DD.F][,rom=FILE|off][,p2p=on|off]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VfioOption {
    /// The device's address on the host, or its path in sysfs.
    pub device: String,
    /// Its name in messages and in the report.
    pub id: Option<String>,
    /// Its address in the guest. The VMM chooses one otherwise.
    pub address: Option<DeviceFunction>,
    /// Its expansion ROM.
    pub rom: RomOption,
    /// Whether other devices reach its BARs by DMA.
    pub peer_to_peer: PeerToPeer,
}

/// The expansion ROM that the guest sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RomOption {
    /// The device's own.
    #[default]
    Device,
    /// A file's contents.
    File(PathBuf),
    /// None.
    Off,
}

/// Why a `--vfio` value is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VfioOptionError {
    /// There is no device.
    #[error("no device is named; expected an address like 0000:01:00.0, or a path in sysfs")]
    NoDevice,
    /// The file of the ROM is missing.
    #[error("rom=: expected a file, or off")]
    Rom,
    /// Another parameter is invalid.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
}

const KNOWN: &str = "id=NAME, addr=DD.F, rom=FILE|off and p2p=on|off";

impl FromStr for VfioOption {
    type Err = VfioOptionError;

    fn from_str(text: &str) -> Result<Self, VfioOptionError> {
        let mut parts = text.split(',');
        let device = parts.next().filter(|device| !device.is_empty()).ok_or(VfioOptionError::NoDevice)?;
        let (mut id, mut address, mut rom, mut peer_to_peer) = (None, None, None, None);
        for part in parts {
            match part.split_once('=') {
                Some(("id", value)) => set("id", &mut id, parameters::id(value, LONGEST_ID)?)?,
                Some(("addr", value)) => set("addr", &mut address, parameters::address(value)?)?,
                Some(("rom", value)) => set("rom", &mut rom, parse_rom(value)?)?,
                Some(("p2p", value)) => set("p2p", &mut peer_to_peer, parse_peer_to_peer(value)?)?,
                _ => return Err(ParameterError::unknown(part, KNOWN).into()),
            }
        }
        let (rom, peer_to_peer) = (rom.unwrap_or_default(), peer_to_peer.unwrap_or_default());
        Ok(Self { device: device.to_owned(), id, address, rom, peer_to_peer })
    }
}

fn parse_rom(value: &str) -> Result<RomOption, VfioOptionError> {
    match value {
        "" => Err(VfioOptionError::Rom),
        "off" => Ok(RomOption::Off),
        path => Ok(RomOption::File(path.into())),
    }
}

fn parse_peer_to_peer(value: &str) -> Result<PeerToPeer, ParameterError> {
    parameters::switch("p2p", value, [PeerToPeer::On, PeerToPeer::Off])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_alone_is_an_address_or_a_path() {
        for device in ["0000:01:00.0", "01:00.0", "/sys/bus/pci/devices/0000:01:00.0"] {
            let option: VfioOption = device.parse().unwrap();
            assert_eq!((option.device.as_str(), option.id, option.address), (device, None, None));
            assert_eq!((option.rom, option.peer_to_peer), (RomOption::Device, PeerToPeer::On));
        }
    }

    #[test]
    fn parameters_come_in_any_order() {
        let option: VfioOption = "01:00.0,addr=1f.7,id=nic-0".parse().unwrap();
        assert_eq!((option.device.as_str(), option.id.as_deref()), ("01:00.0", Some("nic-0")));
        assert_eq!(option.address.map(|address| address.to_string()).as_deref(), Some("00:1f.7"));
        let option: VfioOption = "01:00.0,id=a,addr=1.0".parse().unwrap();
        assert_eq!(option.address, Some(DeviceFunction::from_bits(8)));
        let rom = |text: &str| text.parse::<VfioOption>().unwrap().rom;
        assert_eq!(rom("01:00.0,rom=off"), RomOption::Off);
        assert_eq!("01:00.0,p2p=off".parse::<VfioOption>().unwrap().peer_to_peer, PeerToPeer::Off);
        assert_eq!(rom("01:00.0,rom=./off=1,id=a"), RomOption::File("./off=1".into()));
    }

    #[test]
    fn errors_name_the_parameter_and_what_is_expected() {
        for (text, says) in [
            ("", "no device is named"),
            (",id=a", "no device is named"),
            ("01:00.0,", "no parameter \"\""),
            ("01:00.0,id", "no parameter \"id\"; there are id=NAME"),
            ("01:00.0,slot=3", "no parameter \"slot=3\""),
            ("01:00.0,id=", "id=: expected 1 to 32 letters"),
            ("01:00.0,id=a b", "id=a b: expected"),
            ("01:00.0,id=123456789012345678901234567890123", "expected 1 to 32"),
            ("01:00.0,p2p=no", "p2p=no: expected on or off"),
            ("01:00.0,p2p=", "p2p=: expected"),
            ("01:00.0,p2p=on,p2p=off", "p2p is given twice"),
            ("01:00.0,rom=", "rom=: expected a file, or off"),
            ("01:00.0,rom=off,rom=off", "rom is given twice"),
            ("01:00.0,id=a,id=b", "id is given twice"),
            ("01:00.0,addr=05.0,addr=05.0", "addr is given twice"),
            ("01:00.0,addr=00.0", "addr=00.0: expected a device number from 01 to 1f"),
            ("01:00.0,addr=20.0", "addr=20.0"),
            ("01:00.0,addr=05.8", "function from 0 to 7"),
            ("01:00.0,addr=05", "addr=05:"),
            ("01:00.0,addr=+5.0", "addr=+5.0"),
            ("01:00.0,addr=005.0", "addr=005.0"),
            ("01:00.0,addr=00:05.0", "addr=00:05.0"),
            ("01:00.0,addr=", "addr=:"),
        ] {
            let said = text.parse::<VfioOption>().unwrap_err().to_string();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
