//! Reads `/proc/interrupts`: of a lab host, of a guest, of the machine.
//!
//! Only lines of numbered interrupts are kept; the architecture's own (`NMI`, `LOC`, ...) are not.

/// One line of `/proc/interrupts`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interrupt {
    /// Linux's number of it.
    pub number: u32,
    /// How often each CPU took it.
    pub counts: Vec<u64>,
    /// The chip, the hardware's number and the names of the handlers, as printed.
    pub description: String,
}

impl Interrupt {
    /// How often it was taken.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The vector that vfio-pci has requested for a device, where this is one: `vfio-msix[3](0000:01:00.0)`.
    pub fn vfio_vector(&self, address: &str) -> Option<u16> {
        let (_, rest) =
            self.description.split_once("vfio-msix[").or_else(|| self.description.split_once("vfio-msi["))?;
        let (vector, device) = rest.split_once("](")?;
        (device.split(')').next() == Some(address)).then(|| vector.parse().ok()).flatten()
    }
}

/// Reads the whole text.
pub fn interrupts(text: &str) -> Vec<Interrupt> {
    let mut lines = text.lines();
    let cpus = lines.next().map_or(0, |head| head.split_whitespace().count());
    lines.filter_map(|line| parse_line(line, cpus)).collect()
}

fn parse_line(line: &str, cpus: usize) -> Option<Interrupt> {
    let (number, rest) = line.split_once(':')?;
    let number = number.trim().parse().ok()?;
    let mut words = rest.split_whitespace();
    let counts = words.by_ref().take(cpus).map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(Interrupt { number, counts, description: words.collect::<Vec<_>>().join(" ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "           CPU0       CPU1       \n\
        \x20  4:        331          1   IO-APIC   4-edge      ttyS0\n\
        \x20 33:          0         12  IR-PCI-MSIX-0000:01:00.0    3-edge      vfio-msix[3](0000:01:00.0)\n\
        \x20 34:          5          0   IR-PCI-MSI 1048577-edge      vfio-msix[1](0000:02:00.0)\n\
        NMI:          0          0   Non-maskable interrupts\n";

    #[test]
    fn numbered_lines_are_read() {
        let all = interrupts(TEXT);
        assert_eq!(
            all.iter().map(|i| (i.number, i.total())).collect::<Vec<_>>(),
            [(4, 332), (33, 12), (34, 5)]
        );
        assert_eq!(all[0].description, "IO-APIC 4-edge ttyS0");
    }

    #[test]
    fn vectors_of_vfio_are_told_by_device() {
        let all = interrupts(TEXT);
        assert_eq!(all[1].vfio_vector("0000:01:00.0"), Some(3));
        assert_eq!(all[1].vfio_vector("0000:02:00.0"), None);
        assert_eq!(all[2].vfio_vector("0000:02:00.0"), Some(1));
        assert_eq!(all[0].vfio_vector("0000:01:00.0"), None);
    }
}
