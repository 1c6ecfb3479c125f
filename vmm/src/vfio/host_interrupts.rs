//! Counts of the interrupts that the host has taken for passed-through devices, from `/proc/interrupts`.
//!
//! VFIO requests an interrupt under the name `vfio-msi[VECTOR](ADDRESS)`, `vfio-msix[VECTOR](ADDRESS)` or
//! `vfio-intx(ADDRESS)`. A line that other devices of the host share has no count of one device. A count
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
            Some((vector, total(line)))
        };
        Self(listed.lines().filter_map(count).collect())
    }

    /// The count for INTx of the device at this address, as vector 0.
    #[must_use]
    pub fn of_intx(listed: &str, address: HostAddress) -> Self {
        let name = format!("vfio-intx({address})");
        let is_alone = |line: &&str| {
            let mut names = line.split_whitespace().rev();
            names.next() == Some(&name) && !names.next().is_some_and(|other| other.ends_with(','))
        };
        Self(listed.lines().filter(is_alone).map(|line| (0, total(line))).collect())
    }

    /// The count of a requested vector.
    #[must_use]
    pub fn count(&self, vector: u32) -> Option<u64> {
        self.0.get(&vector).copied()
    }
}

/// The sum of a line's counts, which stand between the IRQ number and the name of the chip.
fn total(line: &str) -> u64 {
    let counts = line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok());
    counts.fold(0, u64::saturating_add)
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
    fn intx_has_a_count_where_the_device_is_alone_on_its_line() {
        const LINES: &str = "           CPU0       CPU1
  16:          7          1  IR-IO-APIC   16-fasteoi   vfio-intx(0000:01:00.0)
  17:          5          5  IR-IO-APIC   17-fasteoi   ahci, vfio-intx(0000:02:00.0)
";
        let count = |at| HostInterrupts::of_intx(LINES, HostAddress::parse(at).unwrap()).count(0);
        assert_eq!(
            (count("0000:01:00.0"), count("0000:02:00.0"), count("0000:03:00.0")),
            (Some(8), None, None)
        );
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
