//! The guest addresses of passed-through functions: a pure function of the command line, so that they are the same at
//! every start.
//!
//! Addresses that a person has chosen come first. The functions of one host device share a device number in the guest,
//! because drivers look for their siblings there. A virtual function is a device of its own. A guest finds no function of
//! a device without function 0 (PCIe r6 §7.5.1.1.9), so the lowest function of such a device becomes function 0.

use std::collections::BTreeSet;

use super::sysfs::HostAddress;
use crate::pci::DeviceFunction;

const DEVICES: u8 = 32;
const FUNCTIONS: u8 = 8;

/// A function to place.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// Its address on the host.
    pub host: HostAddress,
    /// Its relation to other functions of the host device.
    pub kind: FunctionKind,
    /// The address that a person has chosen.
    pub chosen: Option<DeviceFunction>,
}

/// Whether a function belongs together with its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// A function of a device, which may have several.
    Physical,
    /// A virtual function of SR-IOV.
    Virtual,
}

/// Why a function has no address. `function` is its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// Two functions have the same chosen address.
    #[error("{address} is the address of another device; choose another addr")]
    Taken {
        /// The function.
        function: usize,
        /// The address.
        address: DeviceFunction,
    },
    /// The guest would not find the function.
    #[error(
        "{address} is a function of a device that has no function 0, and a guest finds no device without it; choose \
         another addr, or give one device that number with function 0"
    )]
    NoFunction0 {
        /// The function.
        function: usize,
        /// The address.
        address: DeviceFunction,
    },
    /// All addresses are in use.
    #[error("the guest's PCI bus is full: it has 248 functions besides the host bridge")]
    Full {
        /// The function.
        function: usize,
    },
}

impl PlacementError {
    /// The function's index.
    #[must_use]
    pub fn function(&self) -> usize {
        match self {
            Self::Taken { function, .. } | Self::NoFunction0 { function, .. } | Self::Full { function } => {
                *function
            }
        }
    }
}

/// The address of each function, in their order. `others` are the chosen addresses of other devices.
///
/// # Errors
/// The first function without a possible address.
pub fn place(functions: &[Placed], others: &[DeviceFunction]) -> Result<Vec<DeviceFunction>, PlacementError> {
    let mut taken: BTreeSet<_> = others.iter().copied().collect();
    for (function, placed) in functions.iter().enumerate() {
        if let Some(address) = placed.chosen.filter(|address| !taken.insert(*address)) {
            return Err(PlacementError::Taken { function, address });
        }
    }
    let mut addresses: Vec<Option<DeviceFunction>> = functions.iter().map(|placed| placed.chosen).collect();
    for (index, placed) in functions.iter().enumerate() {
        if addresses.get(index).copied().flatten().is_some() {
            continue;
        }
        let siblings: Vec<usize> = siblings(functions, placed, index);
        let of_sibling = siblings.iter().find_map(|sibling| addresses.get(*sibling).copied().flatten());
        let device = of_sibling.map(DeviceFunction::device).or_else(|| free_device(&taken));
        let is_new = of_sibling.is_none();
        let lowest =
            siblings.iter().filter_map(|sibling| functions.get(*sibling)).map(|s| s.host.function()).min();
        for sibling in siblings {
            let Some((function, address)) = functions.get(sibling).zip(addresses.get_mut(sibling)) else {
                continue;
            };
            if address.is_some() {
                continue;
            }
            let own = function.host.function();
            let wanted = if is_new && Some(own) == lowest { 0 } else { own };
            let found = device
                .and_then(|device| free_function(&taken, device, wanted))
                .or_else(|| free_address(&taken))
                .ok_or(PlacementError::Full { function: sibling })?;
            taken.insert(found);
            *address = Some(found);
        }
    }
    let addresses: Vec<_> = addresses.into_iter().flatten().collect();
    for (function, address) in addresses.iter().copied().enumerate() {
        if !taken.contains(&at(address.device(), 0)) {
            return Err(PlacementError::NoFunction0 { function, address });
        }
    }
    Ok(addresses)
}

/// The functions of the same host device, with the function itself.
fn siblings(functions: &[Placed], of: &Placed, index: usize) -> Vec<usize> {
    let is_sibling = |other: &Placed| {
        (of.kind, other.kind) == (FunctionKind::Physical, FunctionKind::Physical)
            && other.host.is_same_device(of.host)
    };
    let all = functions.iter().enumerate();
    all.filter(|(at, other)| *at == index || is_sibling(other)).map(|(at, _)| at).collect()
}

fn at(device: u8, function: u8) -> DeviceFunction {
    DeviceFunction::from_bits(device << 3 | function & 7)
}

/// The lowest device number without a function. Number 0 is the host bridge's.
fn free_device(taken: &BTreeSet<DeviceFunction>) -> Option<u8> {
    (1..DEVICES).find(|device| taken.range(at(*device, 0)..=at(*device, 7)).next().is_none())
}

/// This function of a device, or its lowest free one.
fn free_function(taken: &BTreeSet<DeviceFunction>, device: u8, wanted: u8) -> Option<DeviceFunction> {
    let functions = [wanted].into_iter().chain(0..FUNCTIONS);
    functions.map(|function| at(device, function)).find(|address| !taken.contains(address))
}

/// The lowest free function number of any device, for a bus without a free device.
fn free_address(taken: &BTreeSet<DeviceFunction>) -> Option<DeviceFunction> {
    let all = (0..FUNCTIONS).flat_map(|function| (1..DEVICES).map(move |device| at(device, function)));
    all.into_iter().find(|address| !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `HOST`, or `HOST@DD.F` with a chosen address. A host address that starts with `v` is a virtual function's.
    fn parse(text: &str) -> Placed {
        let (host, chosen) = text.split_once('@').map_or((text, None), |(host, at)| (host, Some(at)));
        let kind = if host.starts_with('v') { FunctionKind::Virtual } else { FunctionKind::Physical };
        let host = HostAddress::parse(host.trim_start_matches('v')).unwrap();
        let chosen = chosen.map(|chosen| {
            let (device, function) = chosen.split_once('.').unwrap();
            at(u8::from_str_radix(device, 16).unwrap(), function.parse().unwrap())
        });
        Placed { host, kind, chosen }
    }

    fn placed(functions: &[&str]) -> Vec<String> {
        let functions: Vec<_> = functions.iter().map(|text| parse(text)).collect();
        let addresses = place(&functions, &[]).unwrap();
        addresses.iter().map(|address| address.to_string()[3..].to_owned()).collect()
    }

    fn error(functions: &[&str]) -> PlacementError {
        place(&functions.iter().map(|text| parse(text)).collect::<Vec<_>>(), &[]).unwrap_err()
    }

    #[test]
    fn devices_without_a_choice_come_one_after_the_other() {
        assert_eq!(placed(&["01:00.0", "02:00.0", "81:03.0"]), ["01.0", "02.0", "03.0"]);
        assert_eq!(placed(&[]), [""; 0]);
    }

    #[test]
    fn chosen_addresses_are_kept_and_others_go_around_them() {
        assert_eq!(placed(&["01:00.0", "02:00.0@01.0", "03:00.0@1f.0"]), ["02.0", "01.0", "1f.0"]);
        assert_eq!(placed(&["01:00.0@05.3", "02:00.0@05.0"]), ["05.3", "05.0"]);
    }

    #[test]
    fn addresses_of_other_devices_are_left_free() {
        let others = [at(1, 0), at(5, 0)];
        assert_eq!(place(&[parse("01:00.0")], &others), Ok(vec![at(2, 0)]));
        assert_eq!(place(&[parse("01:00.0@05.3")], &others), Ok(vec![at(5, 3)]));
        let taken = PlacementError::Taken { function: 0, address: at(5, 0) };
        assert_eq!(place(&[parse("01:00.0@05.0")], &others), Err(taken));
    }

    #[test]
    fn functions_of_one_device_stay_together_whatever_their_order() {
        assert_eq!(placed(&["01:00.0", "02:00.0", "01:00.1"]), ["01.0", "02.0", "01.1"]);
        assert_eq!(placed(&["01:00.1", "02:00.0", "01:00.0"]), ["01.1", "02.0", "01.0"]);
        assert_eq!(placed(&["01:00.0", "01:00.3"]), ["01.0", "01.3"], "numbers are the host's");
        assert_eq!(placed(&["01:00.2", "01:00.1", "01:00.5"]), ["01.2", "01.0", "01.5"], "one becomes 0");
        assert_eq!(placed(&["01:00.1"]), ["01.0"]);
        assert_eq!(placed(&["1:01:00.1", "01:00.0"]), ["01.0", "02.0"], "another domain");
    }

    #[test]
    fn functions_follow_a_sibling_with_a_chosen_address() {
        assert_eq!(placed(&["01:00.1", "01:00.0@05.0"]), ["05.1", "05.0"]);
        assert_eq!(placed(&["01:00.1", "02:00.0@05.1", "01:00.0@05.0"]), ["05.2", "05.1", "05.0"]);
        assert_eq!(placed(&["01:00.1@05.0", "01:00.0"]), ["05.0", "05.1"]);
        assert_eq!(placed(&["01:00.0@05.0", "01:00.1@06.0"]), ["05.0", "06.0"], "both are chosen");
    }

    #[test]
    fn a_virtual_function_is_a_device_of_its_own() {
        assert_eq!(placed(&["v01:10.0", "v01:10.2", "v01:10.4"]), ["01.0", "02.0", "03.0"]);
        assert_eq!(placed(&["01:00.0", "v01:00.1"]), ["01.0", "02.0"]);
    }

    #[test]
    fn an_address_that_cannot_be_is_an_error_with_its_function() {
        let address = at(5, 0);
        assert_eq!(error(&["01:00.0@05.0", "02:00.0@05.0"]), PlacementError::Taken { function: 1, address });
        let address = at(5, 3);
        let alone = error(&["02:00.0", "01:00.0@05.3"]);
        assert_eq!((alone, alone.function()), (PlacementError::NoFunction0 { function: 1, address }, 1));
        assert!(
            alone.to_string().contains("00:05.3") && alone.to_string().contains("no function 0"),
            "{alone}"
        );
    }

    #[test]
    fn a_full_bus_takes_further_functions_and_then_none() {
        let many = |count: u32| -> Vec<Placed> {
            (0..count).map(|n| parse(&format!("{:02x}:{:02x}.0", n / 32, n % 32))).collect()
        };
        let addresses = place(&many(248), &[]).unwrap();
        assert_eq!((addresses[30], addresses[31], addresses[247]), (at(31, 0), at(1, 1), at(31, 7)));
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 248);
        assert_eq!(place(&many(249), &[]), Err(PlacementError::Full { function: 248 }));
    }
}
