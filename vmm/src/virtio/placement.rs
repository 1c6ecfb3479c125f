//! Chosen addresses of virtio devices: checked before the guest starts, against each other and against the passed-through
//! devices.
//!
//! A device without a chosen address gets the lowest free device number when it is added to the bus, after those with one.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::pci::DeviceFunction;

/// Checks that each chosen address is free, and that the guest finds it: a guest finds no function of a device without
/// function 0 (PCIe r6 §7.5.1.1.9). Each comes with its argument, for the message. `others` are the addresses of other
/// devices.
///
/// # Errors
/// [`Error::Input`] for the first address that cannot be.
pub fn check(chosen: &[(String, DeviceFunction)], others: &[DeviceFunction]) -> Result<()> {
    let mut taken: BTreeSet<_> = others.iter().copied().collect();
    for (argument, address) in chosen {
        if !taken.insert(*address) {
            let problem = format!("{address} is the address of another device; choose another addr");
            return Err(Error::input(argument, problem));
        }
    }
    for (argument, address) in chosen {
        if !taken.contains(&DeviceFunction::from_bits(address.device() << 3)) {
            let problem = format!(
                "{address} is a function of a device that has no function 0, and a guest finds no device without it; \
                 choose another addr, or give one device that number with function 0"
            );
            return Err(Error::input(argument, problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(chosen: &[(u8, u8)], others: &[(u8, u8)]) -> Option<String> {
        let at = |(device, function): &(u8, u8)| DeviceFunction::from_bits(device << 3 | function);
        let chosen: Vec<_> = chosen.iter().map(|place| (format!("--disk {place:?}"), at(place))).collect();
        let others: Vec<_> = others.iter().map(at).collect();
        check(&chosen, &others).err().map(|error| error.to_string())
    }

    #[test]
    fn an_address_is_free_and_has_a_function_0() {
        assert_eq!(problem(&[(1, 0), (5, 0), (5, 3)], &[(2, 0)]), None);
        assert_eq!(problem(&[(5, 3)], &[(5, 0)]), None);
        for (chosen, others, says) in [
            (&[(5, 0), (5, 0)][..], &[][..], "--disk (5, 0): 00:05.0 is the address of another device"),
            (&[(5, 0)], &[(5, 0)], "another device"),
            (
                &[(4, 0), (5, 3)],
                &[],
                "--disk (5, 3): 00:05.3 is a function of a device that has no function 0",
            ),
        ] {
            let said = problem(chosen, others).unwrap();
            assert!(said.contains(says), "{said}");
        }
    }
}
