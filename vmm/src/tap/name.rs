//! The name of a tap: one that the kernel takes as it is.

use std::fmt;
use std::str::FromStr;

/// Longest name of a network interface in bytes, without the zero byte (IFNAMSIZ - 1).
const LONGEST: usize = 15;

/// The name of a network interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TapName(String);

/// The name is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tap={0}: expected the name of an interface, 1 to 15 characters without '/', ':', '%' and spaces")]
pub struct TapNameError(String);

impl TapName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TapName {
    type Err = TapNameError;

    /// The kernel would replace "%d" by a number, so '%' is no part of a name here.
    fn from_str(text: &str) -> Result<Self, TapNameError> {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
        let is_directory = [".", ".."].contains(&text);
        if (1..=LONGEST).contains(&text.len()) && text.bytes().all(is_plain) && !is_directory {
            return Ok(Self(text.to_owned()));
        }
        Err(TapNameError(text.to_owned()))
    }
}

impl fmt::Display for TapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_the_kernel_takes_as_it_is() {
        for name in ["tap0", "a", "vm-1.net", "fifteen-letters"] {
            assert_eq!(name.parse::<TapName>().unwrap().as_str(), name);
        }
        for name in ["", "sixteen--letters", "a/b", "a:1", "tap%d", "a b", ".", "..", "t\u{e4}p"] {
            assert!(name.parse::<TapName>().is_err(), "{name}");
        }
    }
}
