//! KVM and its capabilities.

use kvm_ioctls::{Cap, Kvm};

use super::{Finding, Grade};
use crate::error::Error;

/// Capabilities that guests can do without, and what they have less then.
const OPTIONAL: [(Cap, &str, &str); 5] = [
    (Cap::X2ApicApi, "x2apic-api", "interrupts reach APIC IDs up to 255 only"),
    (Cap::SplitIrqchip, "split-irqchip", "--irqchip split does not work"),
    (Cap::IrqfdResample, "irqfd-resample", "INTx of passed-through devices does not work"),
    (Cap::ReadonlyMem, "readonly-mem", "reads of MSI-X tables and ROMs exit"),
    (Cap::TscDeadlineTimer, "tsc-deadline", "the guest's timer is less exact"),
];

pub(super) fn findings() -> Vec<Finding> {
    match crate::kvm::open(1) {
        Ok(kvm) => capabilities(&kvm),
        Err(Error::Host { context, source }) => {
            vec![Finding::missing("kvm", Grade::NoGuests, context, source.to_string())]
        }
        Err(error @ Error::Input { .. }) => {
            vec![Finding::missing("kvm", Grade::NoGuests, "/dev/kvm", error.to_string())]
        }
    }
}

fn capabilities(kvm: &Kvm) -> Vec<Finding> {
    let count = |capability| kvm.check_extension_int(capability).max(0);
    let mut findings = vec![
        Finding::good("kvm", format!("/dev/kvm opens, up to {} CPUs", kvm.get_max_vcpus())),
        Finding::good("memory-slots", count(Cap::NrMemslots).to_string()),
        // Messages beyond the routes are delivered by the VMM.
        Finding::good("routes", format!("{} for interrupts", count(Cap::IrqRouting))),
    ];
    for (capability, name, otherwise) in OPTIONAL {
        findings.push(if kvm.check_extension(capability) {
            Finding::good(name, "yes")
        } else {
            Finding::missing(name, Grade::Lesser, format!("no: {otherwise}"), "a newer host kernel")
        });
    }
    findings
}
