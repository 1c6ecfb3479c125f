//! The values of `--device`: an emulated device and its parameters.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;

use vm_msi::ims::SlotCount;

use crate::vfio::HostAddress;

/// Default number of slots of `ims-timer`.
const TIMER_SLOTS: u32 = 64;

/// An emulated device. `H` identifies the host device behind a mediated one: here its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceOption<H = HostAddress> {
    /// Queues that each signal an IMS slot on a doorbell write.
    ImsQueues {
        /// Slots in a BAR.
        slots: SlotCount,
        /// Slots in guest memory, if any.
        memory_slots: Option<SlotCount>,
    },
    /// Timers that each signal an IMS slot.
    ImsTimer {
        /// Slots in a BAR.
        slots: SlotCount,
    },
    /// Queues of a host device that each signal an IMS slot on a doorbell write.
    ImsMediated {
        /// The host device.
        host: H,
        /// Slots in a BAR.
        slots: SlotCount,
    },
}

impl<H> DeviceOption<H> {
    /// Replaces the host device by the result of `find`.
    ///
    /// # Errors
    /// The errors of `find`.
    pub fn resolve<G, E>(self, find: impl FnOnce(H) -> Result<G, E>) -> Result<DeviceOption<G>, E> {
        Ok(match self {
            Self::ImsQueues { slots, memory_slots } => DeviceOption::ImsQueues { slots, memory_slots },
            Self::ImsTimer { slots } => DeviceOption::ImsTimer { slots },
            Self::ImsMediated { host, slots } => DeviceOption::ImsMediated { host: find(host)?, slots },
        })
    }
}

/// Why a `--device` value is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceOptionError {
    /// The device name is unknown.
    #[error("there is no device {name:?}; there are ims-queues, ims-timer and ims-mediated")]
    Unknown {
        /// The given name.
        name: String,
    },
    /// The device has no such parameter.
    #[error("{device} has no parameter {text:?}; it has {known}")]
    Parameter {
        /// The device.
        device: &'static str,
        /// The given parameter.
        text: String,
        /// The parameters that the device has.
        known: String,
    },
    /// A parameter occurs twice.
    #[error("{key} is given twice")]
    Twice {
        /// The parameter.
        key: &'static str,
    },
    /// A required parameter is missing.
    #[error("{device} needs {key}, for example {example}")]
    Missing {
        /// The device.
        device: &'static str,
        /// The parameter.
        key: &'static str,
        /// A valid value.
        example: &'static str,
    },
    /// The value is not a device address.
    #[error("{key}={value}: expected an address like 0000:01:00.0")]
    Address {
        /// The parameter.
        key: &'static str,
        /// The given value.
        value: String,
    },
    /// The value is not a number in the range.
    #[error("{key}={value}: expected a number from {} to {}", .range.start(), .range.end())]
    Number {
        /// The parameter.
        key: &'static str,
        /// The given value.
        value: String,
        /// The valid range.
        range: RangeInclusive<u32>,
    },
}

const SLOTS: &str = "slots";
const MEMORY_SLOTS: &str = "memory-slots";
const HOST: &str = "host";

impl FromStr for DeviceOption {
    type Err = DeviceOptionError;

    fn from_str(text: &str) -> Result<Self, DeviceOptionError> {
        let (name, rest) = text.split_once(',').map_or((text, None), |(name, rest)| (name, Some(rest)));
        match name {
            "ims-queues" => {
                let parameters = Parameters::parse("ims-queues", rest, &[SLOTS, MEMORY_SLOTS])?;
                let missing = missing("ims-queues", SLOTS, "ims-queues,slots=1024");
                let slots = parameters.count(SLOTS, 1)?.ok_or(missing)?;
                let memory_slots = parameters.count(MEMORY_SLOTS, 0)?.unwrap_or(slots);
                Ok(Self::ImsQueues { slots: slot_count(slots), memory_slots: SlotCount::new(memory_slots) })
            }
            "ims-timer" => {
                let parameters = Parameters::parse("ims-timer", rest, &[SLOTS])?;
                let slots = parameters.count(SLOTS, 1)?.unwrap_or(TIMER_SLOTS);
                Ok(Self::ImsTimer { slots: slot_count(slots) })
            }
            "ims-mediated" => {
                let parameters = Parameters::parse("ims-mediated", rest, &[HOST, SLOTS])?;
                let missing = |key| missing("ims-mediated", key, "ims-mediated,host=0000:01:00.0,slots=32");
                let host = parameters.address(HOST)?.ok_or_else(|| missing(HOST))?;
                let slots = parameters.count(SLOTS, 1)?.ok_or_else(|| missing(SLOTS))?;
                Ok(Self::ImsMediated { host, slots: slot_count(slots) })
            }
            other => Err(DeviceOptionError::Unknown { name: other.to_owned() }),
        }
    }
}

fn missing(device: &'static str, key: &'static str, example: &'static str) -> DeviceOptionError {
    DeviceOptionError::Missing { device, key, example }
}

/// Converts a number of slots that is in range.
fn slot_count(slots: u32) -> SlotCount {
    SlotCount::new(slots).unwrap_or(SlotCount::MAX)
}

/// A device's parameters: `key=value`, separated by commas, in any order.
struct Parameters<'a>(BTreeMap<&'static str, &'a str>);

impl<'a> Parameters<'a> {
    fn parse(
        device: &'static str,
        text: Option<&'a str>,
        keys: &[&'static str],
    ) -> Result<Self, DeviceOptionError> {
        let mut found = BTreeMap::new();
        for part in text.into_iter().flat_map(|text| text.split(',')) {
            let known = part.split_once('=').and_then(|(key, value)| {
                keys.iter().find(|known| **known == key).map(|known| (*known, value))
            });
            let (key, value) = known.ok_or_else(|| {
                let known = keys.iter().map(|key| match *key {
                    HOST => format!("{key}=BDF"),
                    key => format!("{key}=N"),
                });
                let known = known.collect::<Vec<_>>().join(" and ");
                DeviceOptionError::Parameter { device, text: part.to_owned(), known }
            })?;
            if found.insert(key, value).is_some() {
                return Err(DeviceOptionError::Twice { key });
            }
        }
        Ok(Self(found))
    }

    fn address(&self, key: &'static str) -> Result<Option<HostAddress>, DeviceOptionError> {
        let wrong = |value: &str| DeviceOptionError::Address { key, value: value.to_owned() };
        let parse = |value: &&str| HostAddress::parse(value).ok_or_else(|| wrong(value));
        self.0.get(key).map(parse).transpose()
    }

    fn count(&self, key: &'static str, least: u32) -> Result<Option<u32>, DeviceOptionError> {
        let range = least..=SlotCount::MAX.get();
        let parse = |value: &&str| {
            let digits = value.bytes().all(|byte| byte.is_ascii_digit());
            let number = value.parse().ok().filter(|number| digits && range.contains(number));
            let wrong =
                || DeviceOptionError::Number { key, value: (*value).to_owned(), range: range.clone() };
            number.ok_or_else(wrong)
        };
        self.0.get(key).map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(slots: u32) -> SlotCount {
        SlotCount::new(slots).unwrap()
    }

    #[test]
    fn a_device_has_a_name_and_parameters_in_any_order() {
        let queues = |slots, memory_slots| Ok(DeviceOption::ImsQueues { slots: count(slots), memory_slots });
        assert_eq!("ims-queues,slots=1024".parse(), queues(1024, Some(count(1024))));
        assert_eq!("ims-queues,slots=65536,memory-slots=0".parse(), queues(65536, None));
        assert_eq!("ims-queues,memory-slots=7,slots=1".parse(), queues(1, Some(count(7))));
        assert_eq!("ims-timer".parse(), Ok(DeviceOption::ImsTimer { slots: count(64) }));
        assert_eq!("ims-timer,slots=3".parse(), Ok(DeviceOption::ImsTimer { slots: count(3) }));
        let host = HostAddress::parse("0000:02:00.0").unwrap();
        let mediated = Ok(DeviceOption::ImsMediated { host, slots: count(63) });
        assert_eq!("ims-mediated,slots=63,host=02:00.0".parse(), mediated);
    }

    #[test]
    fn errors_name_the_parameter_and_its_range() {
        for (text, says) in [
            ("", "no device \"\""),
            ("ims", "there are ims-queues, ims-timer and ims-mediated"),
            ("ims-queues", "needs slots, for example ims-queues,slots=1024"),
            ("ims-queues,memory-slots=3", "needs slots,"),
            ("ims-mediated,slots=3", "needs host, for example ims-mediated,host=0000:01:00.0,slots=32"),
            ("ims-mediated,host=01:00.0", "needs slots,"),
            ("ims-mediated,host=nvme0,slots=3", "host=nvme0: expected an address like 0000:01:00.0"),
            ("ims-mediated,queues=3", "no parameter \"queues=3\"; it has host=BDF and slots=N"),
            ("ims-queues,", "no parameter \"\""),
            ("ims-queues,slots", "no parameter \"slots\"; it has slots=N and memory-slots=N"),
            ("ims-queues,slots=0", "slots=0: expected a number from 1 to 65536"),
            ("ims-queues,slots=65537", "from 1 to 65536"),
            ("ims-queues,slots=1,memory-slots=65537", "from 0 to 65536"),
            ("ims-queues,slots=+1", "slots=+1"),
            ("ims-queues,slots=1K", "slots=1K"),
            ("ims-queues,slots=1,slots=1", "slots is given twice"),
            ("ims-timer,memory-slots=1", "no parameter \"memory-slots=1\"; it has slots=N"),
        ] {
            let said = text.parse::<DeviceOption>().unwrap_err().to_string();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
