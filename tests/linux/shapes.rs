//! The same guest jobs on other guest kernels and numbers of vCPUs.

use guest::{Result, Tools};
use lab::Series;

use crate::growth::{assert_disk_was_read, assert_every_ring_came};
use crate::stage::{Passed, Stage, Where};

/// On the host with dynamic MSI-X, a guest whose kernel cannot add vectors after enable, with four vCPUs. On the other host, a newer
/// guest with one.
pub(crate) fn another_kernel_and_number_of_vcpus(stage: &Stage) -> Result<()> {
    match stage.place {
        Where::Lab(Series::V6_1) => works(stage, Series::V6_12, 1),
        Where::Lab(Series::V6_12) | Where::Own => works(stage, Series::V6_1, 4),
    }
}

/// All of them.
pub(crate) fn every_kernel_and_number_of_vcpus(stage: &Stage) -> Result<()> {
    for kernel in Series::ALL {
        for cpus in [1, 2, 4] {
            works(stage, kernel, cpus)?;
        }
    }
    Ok(())
}

fn works(stage: &Stage, kernel: Series, cpus: u32) -> Result<()> {
    if !stage.has_one_of(&[Passed::Disk, Passed::Doorbell]) {
        return Ok(());
    }
    println!("guest {kernel} with {cpus} vCPUs");
    let machine = stage.guest(kernel, Tools::None, &[Passed::Disk, Passed::Doorbell])?;
    let seen = stage.run(&stage.jobs(machine.cpus(cpus), &["nvme", "grow", "vectors"]))?;
    let init = seen.line("init")?;
    assert_eq!(init.number("cpus")?, u64::from(cpus));
    assert!(init.value("kernel")?.starts_with(&kernel.to_string()));
    assert_disk_was_read(stage, &seen)?;
    if !stage.has(Passed::Doorbell) {
        return Ok(());
    }
    let doorbell = seen.line("doorbell")?;
    assert_eq!(doorbell.number("vectors")?, 64);
    let growth = match kernel {
        Series::V6_12 => "one-by-one",
        Series::V6_1 => "at-enable",
    };
    assert_eq!(doorbell.value("growth")?, growth);
    assert_every_ring_came(doorbell)
}
