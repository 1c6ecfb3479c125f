//! The values of `--disk`: a file, and how the guest sees it.

use std::path::PathBuf;
use std::str::FromStr;

use super::parameters::{self, ParameterError, set};
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
    /// A parameter is invalid.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
}

/// Bytes of a disk's serial number (virtio 1.2 §5.2.6).
const LONGEST_ID: usize = 20;
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
                Some(("queues", value)) => {
                    set("queues", &mut queues, parameters::queues(value, MOST_QUEUES)?)?
                }
                Some(("id", value)) => set("id", &mut id, parameters::id(value, LONGEST_ID)?)?,
                Some(("addr", value)) => set("addr", &mut address, parameters::address(value)?)?,
                _ => return Err(ParameterError::unknown(part, KNOWN).into()),
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

fn parse_access(value: &str) -> Result<ImageAccess, ParameterError> {
    parameters::switch("readonly", value, [ImageAccess::ReadOnly, ImageAccess::ReadWrite])
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
            ("path=a,queues=0", "queues=0: expected a number from 1 to 64"),
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
