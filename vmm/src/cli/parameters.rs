//! Parameters of options, `KEY=VALUE`, and the values that several options have.

use crate::pci::DeviceFunction;
use crate::virtio::vsock::GuestCid;

/// Characters of a name, where nothing else limits it.
pub(super) const LONGEST_ID: usize = 32;

/// Why a parameter of an option is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// There is no such parameter.
    #[error("there is no parameter {text:?}; there are {known}")]
    Unknown {
        /// The given parameter.
        text: String,
        /// The option's parameters.
        known: &'static str,
    },
    /// A parameter occurs twice.
    #[error("{key} is given twice")]
    Twice {
        /// The parameter.
        key: &'static str,
    },
    /// The value of a parameter is invalid.
    #[error("{key}={value}: expected {expected}")]
    Value {
        /// The parameter.
        key: &'static str,
        /// The given value.
        value: String,
        /// The values that it may have.
        expected: String,
    },
}

impl ParameterError {
    pub(super) fn unknown(text: &str, known: &'static str) -> Self {
        Self::Unknown { text: text.to_owned(), known }
    }

    fn value(key: &'static str, value: &str, expected: impl Into<String>) -> Self {
        Self::Value { key, value: value.to_owned(), expected: expected.into() }
    }
}

/// Sets a parameter, which was not set before.
pub(super) fn set<T>(key: &'static str, place: &mut Option<T>, value: T) -> Result<(), ParameterError> {
    if place.replace(value).is_none() { Ok(()) } else { Err(ParameterError::Twice { key }) }
}

/// `on` or `off`, as the values for them.
pub(super) fn switch<T>(key: &'static str, value: &str, [on, off]: [T; 2]) -> Result<T, ParameterError> {
    match value {
        "on" => Ok(on),
        "off" => Ok(off),
        other => Err(ParameterError::value(key, other, "on or off")),
    }
}

/// A number of queues, 1 to `most`.
pub(super) fn queues(value: &str, most: u16) -> Result<u16, ParameterError> {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    let queues = value.parse().ok().filter(|queues| is_number && (1..=most).contains(queues));
    queues.ok_or_else(|| ParameterError::value("queues", value, format!("a number from 1 to {most}")))
}

/// A guest's context identifier.
pub(super) fn cid(value: &str) -> Result<GuestCid, ParameterError> {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    let cid = value.parse().ok().filter(|_| is_number).and_then(GuestCid::new);
    cid.ok_or_else(|| ParameterError::value("cid", value, "a number from 3 to 4294967294"))
}

/// A name of 1 to `longest` letters, digits, '-', '_' or '.'.
pub(super) fn id(value: &str, longest: usize) -> Result<String, ParameterError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=longest).contains(&value.len()) && value.bytes().all(is_plain) {
        return Ok(value.to_owned());
    }
    let expected = format!("1 to {longest} letters, digits, '-', '_' or '.'");
    Err(ParameterError::value("id", value, expected))
}

/// An address in the guest, as DD.F in hexadecimal: 01.0 to 1f.7.
pub(super) fn address(value: &str) -> Result<DeviceFunction, ParameterError> {
    let expected = "a device number from 01 to 1f and a function from 0 to 7, like 05.0";
    device_function(value).ok_or_else(|| ParameterError::value("addr", value, expected))
}

fn device_function(value: &str) -> Option<DeviceFunction> {
    let hexadecimal = |digits: &str, longest: usize| {
        let is_number =
            (1..=longest).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if is_number { u8::from_str_radix(digits, 16).ok() } else { None }
    };
    let (device, function) = value.split_once('.')?;
    let device = hexadecimal(device, 2).filter(|device| (1..32).contains(device))?;
    let function = hexadecimal(function, 1).filter(|function| *function < 8)?;
    Some(DeviceFunction::from_bits(device << 3 | function))
}
