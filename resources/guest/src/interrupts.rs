//! What a host's kernel has really allocated for a passed-through device: its lines in `/proc/interrupts`.
//!
//! VFIO requests an interrupt under the name `vfio-msix[VECTOR](ADDRESS)`, so what is listed is what has a handler
//! and a CPU vector; table entries that are only reserved are not.

/// The host vectors of one device.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HostVectors {
    /// How many are requested.
    pub requested: u32,
    /// How many interrupts they have taken, all together.
    pub taken: u64,
}

impl HostVectors {
    /// Those of the device at this address.
    pub fn of(address: &str, interrupts: &str) -> Self {
        let mut vectors = Self::default();
        for interrupt in lab::interrupts(interrupts).iter().filter(|one| one.vfio_vector(address).is_some()) {
            vectors.requested += 1;
            vectors.taken += interrupt.total();
        }
        vectors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: &str = "           CPU0       CPU1       
   4:          5          1  IR-IO-APIC    4-edge      ttyS0
  40:        100         11  IR-PCI-MSIX-0000:01:00.0    0-edge      vfio-msix[0](0000:01:00.0)
  41:          0          3  IR-PCI-MSIX-0000:01:00.0    1-edge      vfio-msix[1](0000:01:00.0)
  42:          9          9  IR-PCI-MSIX-0000:02:00.0    1-edge      vfio-msix[1](0000:02:00.0)
 NMI:          0          0   Non-maskable interrupts
";

    #[test]
    fn a_devices_own_vectors_are_counted() {
        assert_eq!(HostVectors::of("0000:01:00.0", SEEN), HostVectors { requested: 2, taken: 114 });
        assert_eq!(HostVectors::of("0000:03:00.0", SEEN), HostVectors::default());
    }
}
