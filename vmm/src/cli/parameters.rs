//! Values that several options have.

use crate::pci::DeviceFunction;

/// Sets a parameter. False if it was set before.
pub(super) fn set_once<T>(place: &mut Option<T>, value: T) -> bool {
    place.replace(value).is_none()
}

/// A name of 1 to `longest` letters, digits, '-', '_' or '.'.
pub(super) fn name(value: &str, longest: usize) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    ((1..=longest).contains(&value.len()) && value.bytes().all(is_plain)).then(|| value.to_owned())
}

/// An address in the guest, as DD.F in hexadecimal: 01.0 to 1f.7.
pub(super) fn address(value: &str) -> Option<DeviceFunction> {
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
