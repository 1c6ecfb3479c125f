//! Counts of the interrupts that the host has taken for passed-through devices, from `/proc/interrupts`.
//!
//! VFIO requests an interrupt under the name `vfio-msi[VECTOR](ADDRESS)` or `vfio-msix[VECTOR](ADDRESS)`. A count
//! exists while the interrupt is requested and restarts with the next request. Posted interrupts to a running vCPU
//! are not counted.

use std::collections::BTreeMap;

use super::sysfs::HostAddress;

/// The file.
pub const PATH: &str = "/proc/interrupts";

/// The counts of one device's interrupts of one kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HostInterrupts(BTreeMap<u32, u64>);

impl HostInterrupts {
    /// The counts for a capability, `msi` or `msix`, of the device at this address.
    #[must_use]
    pub fn of(listed: &str, capability: &str, address: HostAddress) -> Self {
        let (before, after) = (format!("vfio-{capability}["), format!("]({address})"));
        let count = |line: &str| {
            let name = line.split_whitespace().next_back()?;
            let vector = name.strip_prefix(&before)?.strip_suffix(&after)?.parse().ok()?;
            // The IRQ number, a count for each CPU, the name of the chip.
            let counts = line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok());
            Some((vector, counts.fold(0, u64::saturating_add)))
        };
        Self(listed.lines().filter_map(count).collect())
    }

    /// The count of a requested vector.
    #[must_use]
    pub fn count(&self, vector: u32) -> Option<u64> {
        self.0.get(&vector).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "           CPU0       CPU1
  40:        100         11  IR-PCI-MSIX-0000:01:00.0    0-edge      vfio-msix[0](0000:01:00.0)
  41:          0          3  IR-PCI-MSIX-0000:01:00.0   12-edge      vfio-msix[12](0000:01:00.0)
  42:          9          9  IR-PCI-MSI-0000:02:00.0     0-edge      vfio-msi[0](0000:02:00.0)
 NMI:          0          0   Non-maskable interrupts
";

    #[test]
    fn a_vectors_counts_are_added_up_over_the_hosts_cpus() {
        let address = |text: &str| HostAddress::parse(text).unwrap();
        let of = |capability, at| HostInterrupts::of(LISTED, capability, address(at));
        let msix = of("msix", "0000:01:00.0");
        assert_eq!([0, 1, 12].map(|vector| msix.count(vector)), [Some(111), None, Some(3)]);
        assert_eq!(of("msi", "0000:02:00.0").count(0), Some(18));
        assert_eq!(of("msix", "0000:02:00.0"), HostInterrupts::default());
    }

    #[test]
    fn a_list_of_something_else_has_no_counts() {
        let address = HostAddress::parse("0000:01:00.0").unwrap();
        for text in
            ["", "\n\n", "vfio-msix[](0000:01:00.0)", "1: 2 vfio-msix[99999999999](0000:01:00.0)", "1: x ]["]
        {
            assert_eq!(HostInterrupts::of(text, "msix", address), HostInterrupts::default(), "{text}");
        }
    }
}
