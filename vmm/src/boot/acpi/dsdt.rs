//! The DSDT: the devices that a guest cannot enumerate, and the S5 sleep type.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package,
    PackageBuilder, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::{Machine, OEM, OEM_REVISION, OEM_TABLE};
use crate::devices::power::SLEEP_TYPE_SOFT_OFF;
use crate::layout;
use crate::pci::{DeviceFunction, InterruptPin};

/// Bytes of a table's header.
const HEADER: u32 = 36;
/// Device numbers of a bus.
const DEVICES: u8 = 32;
/// Revision 2: integers have 64 bits.
const REVISION: u8 = 2;

pub(super) fn table(machine: &Machine) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", HEADER, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    let mut aml = Vec::new();
    let scope = [host_bridge(machine), com1(), ecam(), pvpanic()].concat();
    aml.extend(Scope::raw(Path::new("\\_SB_"), scope));
    // The value for the sleep control register that powers the machine off (ACPI 7.4.2).
    let soft_off = Package::new(vec![&SLEEP_TYPE_SOFT_OFF]);
    Name::new(Path::new("\\_S5_"), &soft_off).to_aml_bytes(&mut aml);
    dsdt.append_slice(&aml);
    dsdt
}

fn bytes(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

/// The PCIe host bridge of segment 0, bus 0, with its windows.
fn host_bridge(machine: &Machine) -> Vec<u8> {
    let memory32 = (low(layout::PCI_MMIO32.start), low(layout::PCI_MMIO32.end).saturating_sub(1));
    let bus = AddressSpace::new_bus_number(0u16, 0u16);
    let config = io(&layout::PCI_CONFIG_PORTS);
    let pio = AddressSpace::new_io(*layout::PCI_PIO.start(), *layout::PCI_PIO.end(), None);
    let not_cacheable = AddressSpaceCacheable::NotCacheable;
    let mmio32 = AddressSpace::new_memory(not_cacheable, true, memory32.0, memory32.1, None);
    let mmio64 = machine.pci_mmio64.as_ref().map(|window| {
        let last = window.end.saturating_sub(1);
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, window.start, last, None)
    });
    let mut windows: Vec<&dyn Aml> = vec![&bus, &config, &pio, &mmio32];
    windows.extend(mmio64.as_ref().map(|window| window as &dyn Aml));
    bytes(&Device::new(
        Path::new("PCI0"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0A08")),
            &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_SEG"), &0u8),
            &Name::new(Path::new("_BBN"), &0u8),
            &Name::new(Path::new("_UID"), &0u8),
            // Cache coherent DMA.
            &Name::new(Path::new("_CCA"), &1u8),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(windows)),
            &Name::new(Path::new("_PRT"), &InterruptRoutes),
        ],
    ))
}

/// The host bridge's `_PRT` (ACPI 6.2.13): the GSI of each pin of each device. PCI interrupts are level-triggered.
struct InterruptRoutes;

impl Aml for InterruptRoutes {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let mut routes = PackageBuilder::new();
        for device in 1..DEVICES {
            for pin in InterruptPin::ALL {
                let gsi = pin.gsi(DeviceFunction::from_bits(device << 3));
                // The function number 0xffff means all functions. The source 0 means that the index is a GSI.
                let address = u32::from(device) << 16 | 0xffff;
                routes.add_element(&Package::new(vec![&address, &pin.index(), &0u8, &gsi]));
            }
        }
        routes.to_aml_bytes(sink);
    }
}

/// COM1, with an edge-triggered interrupt.
fn com1() -> Vec<u8> {
    let interrupt = Interrupt::new(true, true, false, false, layout::COM1_GSI);
    bytes(&Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &0u8),
            &Name::new(Path::new("_DDN"), &"COM1"),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&interrupt, &io(&layout::COM1_PORTS)])),
        ],
    ))
}

/// ECAM as a motherboard resource. An operating system must not use the MCFG without it (PCI Firmware 3.0, 4.1.2).
fn ecam() -> Vec<u8> {
    let size = layout::PCI_ECAM.end - layout::PCI_ECAM.start;
    let memory = Memory32Fixed::new(true, low(layout::PCI_ECAM.start), low(size));
    bytes(&Device::new(
        Path::new("ECAM"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
            &Name::new(Path::new("_UID"), &0u8),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&memory])),
        ],
    ))
}

/// pvpanic, present and without a user interface (ACPI 6.3.7).
fn pvpanic() -> Vec<u8> {
    let port = layout::PVPANIC_PORT..layout::PVPANIC_PORT + 1;
    bytes(&Device::new(
        Path::new("PEVT"),
        vec![
            &Name::new(Path::new("_HID"), &"QEMU0001"),
            &Name::new(Path::new("_UID"), &0u8),
            &Name::new(Path::new("_STA"), &0x0bu8),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&io(&port)])),
        ],
    ))
}

fn io(ports: &std::ops::Range<u16>) -> IO {
    let length = u8::try_from(ports.len()).unwrap_or(u8::MAX);
    IO::new(ports.start, ports.start, 1, length)
}

/// An address below 4 GiB by the layout.
fn low(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dsdt() -> Vec<u8> {
        bytes(&table(&Machine { cpus: 1, pci_mmio64: None }))
    }

    fn count(haystack: &[u8], needle: &[u8]) -> usize {
        haystack.windows(needle.len()).filter(|window| *window == needle).count()
    }

    /// The element of `_PRT` for a pin of a device: address, pin, source and GSI as AML.
    fn element(device: u8, pin: u8, gsi: u8) -> Vec<u8> {
        let pin: &[u8] = match pin {
            0 => &[0x00],
            1 => &[0x01],
            _ => &[0x0a, pin],
        };
        [&[0x0c, 0xff, 0xff, device, 0][..], pin, &[0x00, 0x0a, gsi]].concat()
    }

    #[test]
    fn each_pin_of_each_device_has_one_gsi() {
        let dsdt = dsdt();
        for device in 1..32 {
            for pin in 0..4 {
                let gsi = 16 + (device + pin) % 8;
                assert_eq!(count(&dsdt, &element(device, pin, gsi)), 1, "device {device} pin {pin}");
            }
        }
        assert_eq!(count(&dsdt, b"_PRT"), 1);
        assert_eq!(count(&dsdt, &[0x0c, 0xff, 0xff, 0, 0]), 0, "the host bridge has no pin");
    }

    #[test]
    fn pvpanic_has_its_port() {
        let dsdt = dsdt();
        assert_eq!(count(&dsdt, b"QEMU0001"), 1);
        // An I/O port descriptor of one byte at 0x505.
        assert_eq!(count(&dsdt, &[0x47, 1, 0x05, 0x05, 0x05, 0x05, 1, 1]), 1);
    }
}
