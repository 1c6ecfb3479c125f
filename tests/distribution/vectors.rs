//! Three views of the same vectors: Linux' `/proc/interrupts`, the capability that `lspci` reads, and the VMM's report.

use std::collections::BTreeMap;

use guest::{Report, Result, Terminal};

use crate::debian::Stage;

/// How often the guest took the interrupts of each vector, by address of the device and index of the vector.
type Taken = BTreeMap<String, BTreeMap<u32, u64>>;

/// Each device has the same vectors in all views. No vector of the passed-through disk was taken more often than the host has seen it.
pub(crate) fn assert_agreement(stage: &Stage, guest: &mut Terminal) -> Result<()> {
    let taken = taken(&guest.run("cat /proc/interrupts")?);
    let pid = stage.host.shell("pidof vmm")?.trim().parse().expect("one VMM runs");
    let report = Report::request(&stage.host, pid, &stage.report())?;
    assert_eq!(
        report.devices.len(),
        4,
        "an NVMe disk, the VMM's disk, a network device and an entropy device"
    );
    for device in &report.devices {
        let (shown, in_use) = match (&device.msix, &device.software_msix) {
            (Some(msix), None) => (msix.vectors, &msix.domain.vectors),
            (None, Some(software)) => (software.vectors, &software.in_use),
            both => panic!("one kind of MSI-X, not {both:?}"),
        };
        let linux = taken.get(&device.place).cloned().unwrap_or_default();
        let indices: Vec<u32> = in_use.iter().map(|vector| vector.vector).collect();
        assert_eq!(indices, linux.keys().copied().collect::<Vec<_>>(), "{}: {device:?}", device.place);
        assert!(!indices.is_empty() && linux.values().any(|&count| count > 0), "{}: {linux:?}", device.place);
        let lspci = guest.run(&format!("lspci -vv -s {}", device.place))?;
        assert!(lspci.contains(&format!("MSI-X: Enable+ Count={shown} Masked-")), "{lspci}");
        for vector in in_use {
            let count = linux[&vector.vector];
            assert!(
                vector.host_interrupts.is_none_or(|host| host >= count),
                "{vector:?}: the guest took {count}"
            );
        }
    }
    Ok(())
}

/// `PCI-MSIX-0000:00:02.0 1-edge virtio0-req.0`; before Linux 6.2 it was `PCI-MSI 32769-edge`, with the function's number and the index
/// in one.
fn taken(text: &str) -> Taken {
    let mut taken = Taken::new();
    for interrupt in lab::interrupts(text) {
        let mut words = interrupt.description.split_whitespace();
        let (chip, number) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let Some(number) = number.strip_suffix("-edge").and_then(|number| number.parse::<u32>().ok()) else {
            continue;
        };
        let (place, index) = match chip.split_once("PCI-MSIX-0000:") {
            Some((_, place)) => (place.to_owned(), number),
            None if chip.ends_with("PCI-MSI") => {
                let function = number >> INDEX_BITS;
                (
                    format!("{:02x}:{:02x}.{}", function >> 8, function >> 3 & 0x1f, function & 7),
                    number & INDEX_MASK,
                )
            }
            None => continue,
        };
        taken.entry(place).or_default().insert(index, interrupt.total());
    }
    taken
}

/// Of the number that Linux made of function and index before 6.2.
const INDEX_BITS: u32 = 11;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;

#[test]
fn vectors_are_told_by_device_on_both_kernels() {
    let new =
        "  CPU0 CPU1\n 24: 1 2 PCI-MSIX-0000:00:02.0 1-edge virtio0-req.0\n 25: 4 0 IO-APIC 4-edge ttyS0\n";
    assert_eq!(taken(new), Taken::from([("00:02.0".into(), BTreeMap::from([(1, 3)]))]));
    let old = "  CPU0\n 24: 5 PCI-MSI 32769-edge virtio0-req.0\n";
    assert_eq!(taken(old), Taken::from([("00:02.0".into(), BTreeMap::from([(1, 5)]))]));
}
