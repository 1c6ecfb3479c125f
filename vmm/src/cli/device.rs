//! What `--device` takes: a device of the VMM's own, and its parameters.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;

use vm_msi::ims::SlotCount;

/// Slots of a timer of which the command line does not say how many.
const TIMER_SLOTS: u32 = 64;

/// A device of the VMM's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceOption {
    /// Queues, each of which signals an IMS slot when it is rung.
    ImsQueues {
        /// Slots in a BAR.
        slots: SlotCount,
        /// Slots in guest memory, if any.
        memory_slots: Option<SlotCount>,
    },
    /// Timers, each of which signals an IMS slot.
    ImsTimer {
        /// Slots in a BAR.
        slots: SlotCount,
    },
}

/// What is wrong with the text of a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceOptionError {
    /// There is no such device.
    #[error("there is no device {name:?}; there are ims-queues and ims-timer")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// A part is no parameter of the device.
    #[error("{device} has no parameter {text:?}; it has {known}")]
    Parameter {
        /// The device.
        device: &'static str,
        /// The part.
        text: String,
        /// What it has.
        known: String,
    },
    /// A parameter is given twice.
    #[error("{key} is given twice")]
    Twice {
        /// The parameter.
        key: &'static str,
    },
    /// A parameter is missing.
    #[error("{device} needs {key}=N, for example {device},{key}=1024")]
    Missing {
        /// The device.
        device: &'static str,
        /// The parameter.
        key: &'static str,
    },
    /// A value is no number, or not one that is possible.
    #[error("{key}={value}: expected a number from {} to {}", .range.start(), .range.end())]
    Number {
        /// The parameter.
        key: &'static str,
        /// What was given.
        value: String,
        /// What is possible.
        range: RangeInclusive<u32>,
    },
}

const SLOTS: &str = "slots";
const MEMORY_SLOTS: &str = "memory-slots";

impl FromStr for DeviceOption {
    type Err = DeviceOptionError;

    fn from_str(text: &str) -> Result<Self, DeviceOptionError> {
        let (name, rest) = text.split_once(',').map_or((text, None), |(name, rest)| (name, Some(rest)));
        match name {
            "ims-queues" => {
                let parameters = Parameters::parse("ims-queues", rest, &[SLOTS, MEMORY_SLOTS])?;
                let missing = DeviceOptionError::Missing { device: "ims-queues", key: SLOTS };
                let slots = parameters.count(SLOTS, 1)?.ok_or(missing)?;
                let memory_slots = parameters.count(MEMORY_SLOTS, 0)?.unwrap_or(slots);
                Ok(Self::ImsQueues { slots: slot_count(slots), memory_slots: SlotCount::new(memory_slots) })
            }
            "ims-timer" => {
                let parameters = Parameters::parse("ims-timer", rest, &[SLOTS])?;
                let slots = parameters.count(SLOTS, 1)?.unwrap_or(TIMER_SLOTS);
                Ok(Self::ImsTimer { slots: slot_count(slots) })
            }
            other => Err(DeviceOptionError::Unknown { name: other.to_owned() }),
        }
    }
}

/// A number of slots that was found to be in the range.
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
                let known = keys.iter().map(|key| format!("{key}=N")).collect::<Vec<_>>().join(" and ");
                DeviceOptionError::Parameter { device, text: part.to_owned(), known }
            })?;
            if found.insert(key, value).is_some() {
                return Err(DeviceOptionError::Twice { key });
            }
        }
        Ok(Self(found))
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
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, says) in [
            ("", "no device \"\""),
            ("ims", "there are ims-queues and ims-timer"),
            ("ims-queues", "needs slots=N"),
            ("ims-queues,memory-slots=3", "needs slots=N"),
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
