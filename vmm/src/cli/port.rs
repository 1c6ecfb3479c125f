//! An I/O port on the command line.

use std::str::FromStr;

/// The number of an I/O port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortNumber(pub u16);

/// Why a text names no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a port from 0 to 0xffff, for example 0xf4")]
pub struct PortNumberError;

impl FromStr for PortNumber {
    type Err = PortNumberError;

    fn from_str(text: &str) -> Result<Self, PortNumberError> {
        let (digits, radix) = match text.strip_prefix("0x") {
            Some(digits) => (digits, 16),
            None => (text, 10),
        };
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(PortNumberError);
        }
        u16::from_str_radix(digits, radix).map(Self).map_err(|_| PortNumberError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_hexadecimal_with_a_prefix_and_decimal_without() {
        let parse = |text: &str| text.parse::<PortNumber>().map(|port| port.0);
        assert_eq!((parse("0xf4"), parse("244"), parse("0xffff")), (Ok(0xf4), Ok(0xf4), Ok(0xffff)));
        for text in ["", "0x", "f4", "-1", "+1", "0x+1", "65536", "0x10000", "0xf4 "] {
            assert_eq!(parse(text), Err(PortNumberError), "{text:?}");
        }
    }
}
