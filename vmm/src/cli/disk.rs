//! The values of `--disk`: a file, and how the guest sees it.

use std::path::PathBuf;
use std::str::FromStr;

use super::parameters;
use crate::pci::DeviceFunction;
use crate::virtio::ImageAccess;
use crate::virtio::blk::MOST_QUEUES;

/// A disk: `path=FILE[,readonly=on|off][,queues=N][,id=NAME][,addr=DD.F]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskOption {
    /// The raw image or block device.
    pub path: PathBuf,
    /// Whether the guest may write.
    pub access: ImageAccess,
    /// Number of queues, 1 to 64.
    pub queues: u16,
    /// Its serial number in the guest, and its name in messages and in the report.
    pub id: Option<String>,
    /// Its address in the guest. The VMM chooses one otherwise.
    pub address: Option<DeviceFunction>,
}

/// Why a `--disk` value is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskOptionError {
    /// There is no file.
    #[error("no file is named; expected path=FILE, without a comma in it")]
    NoPath,
    /// There is no such parameter.
    #[error("there is no parameter {text:?}; there are {KNOWN}")]
    Parameter {
        /// The given parameter.
        text: String,
    },
    /// A parameter occurs twice.
    #[error("{key} is given twice")]
    Twice {
        /// The parameter.
        key: &'static str,
    },
    /// The value of readonly is invalid.
    #[error("readonly={value}: expected on or off")]
    ReadOnly {
        /// The given value.
        value: String,
    },
    /// The number of queues is invalid.
    #[error("queues={value}: expected 1 to {MOST_QUEUES}")]
    Queues {
        /// The given value.
        value: String,
    },
    /// The name is invalid.
    #[error("id={value}: expected 1 to 20 letters, digits, '-', '_' or '.'")]
    Id {
        /// The given name.
        value: String,
    },
    /// The address is invalid.
    #[error("addr={value}: expected a device number from 01 to 1f and a function from 0 to 7, like 05.0")]
    Address {
        /// The given address.
        value: String,
    },
}

const KNOWN: &str = "path=FILE, readonly=on|off, queues=N, id=NAME and addr=DD.F";

impl FromStr for DiskOption {
    type Err = DiskOptionError;

    fn from_str(text: &str) -> Result<Self, DiskOptionError> {
        let (mut path, mut access, mut queues, mut id, mut address) = (None, None, None, None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("path", "")) => return Err(DiskOptionError::NoPath),
                Some(("path", value)) => set("path", &mut path, PathBuf::from(value))?,
                Some(("readonly", value)) => set("readonly", &mut access, parse_access(value)?)?,
                Some(("queues", value)) => set("queues", &mut queues, parse_queues(value)?)?,
                Some(("id", value)) => {
                    let name = parameters::name(value, 20);
                    let name = name.ok_or_else(|| DiskOptionError::Id { value: value.to_owned() })?;
                    set("id", &mut id, name)?;
                }
                Some(("addr", value)) => {
                    let chosen = parameters::address(value);
                    let chosen =
                        chosen.ok_or_else(|| DiskOptionError::Address { value: value.to_owned() })?;
                    set("addr", &mut address, chosen)?;
                }
                _ => return Err(DiskOptionError::Parameter { text: part.to_owned() }),
            }
        }
        Ok(Self {
            path: path.ok_or(DiskOptionError::NoPath)?,
            access: access.unwrap_or(ImageAccess::ReadWrite),
            queues: queues.unwrap_or(1),
            id,
            address,
        })
    }
}

fn set<T>(key: &'static str, place: &mut Option<T>, value: T) -> Result<(), DiskOptionError> {
    if parameters::set_once(place, value) { Ok(()) } else { Err(DiskOptionError::Twice { key }) }
}

fn parse_access(value: &str) -> Result<ImageAccess, DiskOptionError> {
    match value {
        "on" => Ok(ImageAccess::ReadOnly),
        "off" => Ok(ImageAccess::ReadWrite),
        other => Err(DiskOptionError::ReadOnly { value: other.to_owned() }),
    }
}

fn parse_queues(value: &str) -> Result<u16, DiskOptionError> {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    let queues = value.parse().ok().filter(|queues| is_number && (1..=MOST_QUEUES).contains(queues));
    queues.ok_or_else(|| DiskOptionError::Queues { value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_writable_and_has_one_queue_unless_it_says_otherwise() {
        let disk: DiskOption = "path=a.img".parse().unwrap();
        assert_eq!(
            (disk.access, disk.queues, disk.id, disk.address),
            (ImageAccess::ReadWrite, 1, None, None)
        );
        let disk: DiskOption = "readonly=on,queues=64,id=root,addr=1f.7,path=/a=b".parse().unwrap();
        assert_eq!((disk.path, disk.access, disk.queues), ("/a=b".into(), ImageAccess::ReadOnly, 64));
        assert_eq!(disk.address.map(|address| address.to_string()).as_deref(), Some("00:1f.7"));
        assert_eq!(disk.id.as_deref(), Some("root"));
    }

    #[test]
    fn errors_name_the_parameter_and_what_is_expected() {
        for (text, says) in [
            ("", "no parameter \"\"; there are path=FILE"),
            ("a.img", "no parameter \"a.img\""),
            ("path=", "no file is named"),
            ("readonly=on", "no file is named"),
            ("path=a,b.img", "no parameter \"b.img\""),
            ("path=a,path=b", "path is given twice"),
            ("path=a,readonly=yes", "readonly=yes: expected on or off"),
            ("path=a,queues=0", "queues=0: expected 1 to 64"),
            ("path=a,queues=65", "queues=65: expected"),
            ("path=a,queues=+1", "queues=+1: expected"),
            ("path=a,id=123456789012345678901", "expected 1 to 20"),
            ("path=a,addr=00.0", "addr=00.0: expected a device number from 01 to 1f"),
            ("path=a,format=qcow2", "no parameter \"format=qcow2\""),
        ] {
            let said = text.parse::<DiskOption>().unwrap_err().to_string();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
