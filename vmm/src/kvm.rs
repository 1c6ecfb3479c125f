//! Opens KVM and checks the capabilities that the VMM needs.

use std::io;

use kvm_ioctls::{Cap, Kvm};

use crate::error::{Error, Result};

/// The API version since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// Required capabilities and their purposes.
const NEEDED: [(Cap, &str); 7] = [
    (Cap::UserMemory, "guest memory"),
    (Cap::Irqchip, "an in-kernel interrupt controller"),
    (Cap::Irqfd, "interrupts from eventfds"),
    (Cap::IrqRouting, "interrupt routing"),
    (Cap::SignalMsi, "message-signalled interrupts"),
    (Cap::ExtCpuid, "CPUID"),
    (Cap::SetTssAddr, "placing its task state"),
];

/// Opens KVM and checks that it can run `cpus` vCPUs.
///
/// # Errors
/// [`Error::Host`] with the remedy, or [`Error::Input`] for too many CPUs.
pub fn open(cpus: u16) -> Result<Kvm> {
    let kvm = Kvm::new().map_err(|errno| cannot_open(io::Error::from_raw_os_error(errno.errno())))?;
    if kvm.get_api_version() != API_VERSION {
        let version = kvm.get_api_version();
        return Err(Error::host(
            "/dev/kvm",
            format!("API version {version}, this program needs {API_VERSION}"),
        ));
    }
    if let Some((_, purpose)) = NEEDED.iter().find(|(capability, _)| !kvm.check_extension(*capability)) {
        return Err(Error::host(
            "/dev/kvm",
            format!("this KVM has no support for {purpose}; use a newer kernel"),
        ));
    }
    let most = kvm.get_max_vcpus();
    if usize::from(cpus) > most {
        return Err(Error::input(format!("--cpus {cpus}"), format!("this KVM runs at most {most}")));
    }
    Ok(kvm)
}

fn cannot_open(error: io::Error) -> Error {
    let cure = match error.kind() {
        io::ErrorKind::NotFound => {
            "no such device; load the module kvm-amd or kvm-intel, and enable virtualisation in the firmware setup"
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; add yourself to the group that owns it: usermod -aG kvm"
        }
        _ => return Error::host("/dev/kvm", error),
    };
    Error::host("/dev/kvm", cure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_remedy() {
        for (kind, cure) in [
            (io::ErrorKind::NotFound, "kvm-amd"),
            (io::ErrorKind::PermissionDenied, "usermod"),
            (io::ErrorKind::ResourceBusy, "/dev/kvm"),
        ] {
            let error = cannot_open(kind.into());
            assert!(error.to_string().contains(cure), "{error}");
            assert_eq!(error.exit_status(), 1);
        }
    }
}
