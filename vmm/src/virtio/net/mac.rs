//! The Ethernet address of a guest's interface.

use std::fmt;
use std::str::FromStr;

use crate::tap::TapName;

/// First octet, bit 0: a group address.
const GROUP: u8 = 1 << 0;
/// First octet, bit 1: locally administered.
const LOCAL: u8 = 1 << 1;

/// An Ethernet address of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress([u8; 6]);

/// The address is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mac={0}: expected the address of one interface, like 02:00:00:00:00:01")]
pub struct MacAddressError(String);

impl MacAddress {
    /// A locally administered address for the guest behind this tap, the same at every start.
    #[must_use]
    pub fn for_tap(name: &TapName) -> Self {
        // FNV-1a, which no release may change.
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x100_0000_01b3;
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(PRIME);
        let [a, b, c, d, e, f, ..] = name.as_str().bytes().fold(OFFSET, step).to_be_bytes();
        Self([a & !GROUP | LOCAL, b, c, d, e, f])
    }

    /// The octets, in the order of transmission.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = MacAddressError;

    fn from_str(text: &str) -> Result<Self, MacAddressError> {
        let wrong = || MacAddressError(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let digits = parts.next().ok_or_else(wrong)?;
            let is_octet = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            *octet = u8::from_str_radix(digits, 16).ok().filter(|_| is_octet).ok_or_else(wrong)?;
        }
        let [first, ..] = octets;
        if parts.next().is_some() || first & GROUP != 0 || octets == [0; 6] {
            return Err(wrong());
        }
        Ok(Self(octets))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_that_of_one_interface() {
        for text in ["02:00:00:00:00:01", "52:54:00:ab:CD:ef"] {
            assert_eq!(text.parse::<MacAddress>().unwrap().to_string(), text.to_lowercase());
        }
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "02-00-00-00-00-01",
            "02:00:00:00:00:0g",
            "+2:00:00:00:00:01",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_address_of_a_tap_is_local_and_does_not_change() {
        let of = |name: &str| MacAddress::for_tap(&name.parse().unwrap());
        assert_eq!(of("tap0").to_string(), "da:63:fc:ef:07:ac");
        assert_ne!(of("tap0"), of("tap1"));
        for number in 0..256 {
            let [first, ..] = of(&format!("tap{number}")).octets();
            assert_eq!(first & (GROUP | LOCAL), LOCAL);
        }
    }
}
