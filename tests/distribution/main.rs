//! Debian as people install it, from a disk image and by its own kernel: what its users would do, typed at its console.
//!
//! Only root can build the image; without root the tests say that they are skipped, and fail where `TESTS_AS_ROOT` promises root.
#![cfg(target_arch = "x86_64")]

mod debian;
mod kernel_log;
mod programs;
mod vectors;

use std::fs;

use guest::{Error, Report, Result, sha256};
use lab::Series;

use debian::{HOST_ADDRESS, Stage};

#[test]
fn debian_keeps_files_over_a_reboot_and_agrees_about_every_vector() {
    if can_build() {
        in_a_lab_host(|| files_and_vectors(Series::V6_12, 64));
    }
}

#[test]
#[ignore = "long: a file of 1 GiB"]
fn a_file_of_a_gib_is_kept_over_a_reboot() {
    in_a_lab_host(|| files_and_vectors(Series::V6_12, 1024));
}

#[test]
#[ignore = "long: another kernel, and another image"]
fn debian_with_its_own_6_1_kernel_does_the_same() {
    in_a_lab_host(|| files_and_vectors(Series::V6_1, 64));
}

#[test]
#[ignore = "long: fio, rngtest, iasl, acpiexec, stress-ng and cyclictest"]
fn programs_that_find_faults_find_none() {
    in_a_lab_host(programs::find_no_fault);
}

#[test]
#[ignore = "long: a second boot, under QEMU"]
fn the_kernel_warns_of_nothing_that_it_does_not_warn_of_under_qemu() {
    in_a_lab_host(kernel_log::has_no_warning_that_is_not_in_qemus_guest);
}

/// Whether images can be built here.
fn can_build() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("TESTS_AS_ROOT").is_none(), "these tests need root");
    if !root {
        eprintln!("SKIPPED: only root can build a disk image with Debian");
    }
    root
}

/// An emulated host stalls now and then, for reasons of its own. The test is tried once more then, which is printed; what it finds wrong is
/// never tried again.
fn in_a_lab_host(test: impl Fn() -> Result<()>) {
    let tried = test();
    if let Err(Error::Lab(error)) = &tried
        && error.is_stall()
    {
        eprintln!("THE EMULATED HOST OR ITS GUEST STALLED ({error}); trying once more, on a new one");
        return test().unwrap_or_else(|error| panic!("{error}"));
    }
    tried.unwrap_or_else(|error| panic!("{error}"));
}

fn files_and_vectors(kernel: Series, file_mib: u64) -> Result<()> {
    let stage = Stage::boot(kernel)?;
    let mut guest = stage.log_in("vhost=on")?;
    let release = guest.run("uname -r")?;
    assert!(release.starts_with(&format!("{kernel}.")), "{release}");
    assert_eq!(guest.run("systemctl is-system-running --wait")?.trim(), "running");
    guest.run(&format!("ping -q -c 5 -i 0.2 {HOST_ADDRESS}"))?;
    assert_eq!(first_word(&guest.run("sha256sum /dev/nvme0n1")?), stage.nvme_digest);
    files_cross_the_network(&stage, &mut guest)?;

    let bytes = file_mib << 20;
    let written = guest.run(&format!("head -c {bytes} /dev/urandom | tee /root/noise | sha256sum; sync"))?;
    assert_eq!(first_word(&past_the_cache(&mut guest)?), first_word(&written));
    vectors::assert_agreement(&stage, &mut guest)?;
    assert!(guest.end("reboot")?.success(), "a reboot is a good end");

    // The second time with the VMM's own network threads.
    let mut guest = stage.log_in("vhost=off")?;
    assert_eq!(first_word(&past_the_cache(&mut guest)?), first_word(&written));
    files_cross_the_network(&stage, &mut guest)?;
    vectors::assert_agreement(&stage, &mut guest)?;
    assert!(guest.end("poweroff")?.success());
    let report = Report::read(&stage.report())?;
    let disk = report.named("debian").expect("the disk is reported");
    assert_eq!(disk.host_errors, 0);
    Ok(())
}

/// The digest of the file that was written, as it is on the disk.
fn past_the_cache(guest: &mut guest::Terminal) -> Result<String> {
    guest.run("echo 3 >/proc/sys/vm/drop_caches; sha256sum /root/noise")
}

/// A file goes to the guest, and the same file comes back.
fn files_cross_the_network(stage: &Stage, guest: &mut guest::Terminal) -> Result<()> {
    let content: Vec<u8> = (0..4 << 20).map(|at: u32| (at * 7 + at / 251) as u8).collect();
    let (sent, received) = (stage.host.scratch().join("sent"), stage.host.scratch().join("received"));
    fs::write(&sent, &content).unwrap();
    stage.serve(&sent, &received)?;
    let digest = guest.run(&format!("nc -d {HOST_ADDRESS} 5000 | tee /root/received | sha256sum"))?;
    assert_eq!(first_word(&digest), sha256(&content));
    guest.run(&format!("nc -N {HOST_ADDRESS} 5001 </root/received"))?;
    stage.host.shell(&format!(
        "for i in $(seq 100); do test $(stat -c %s {file}) -ge {bytes} && exit; sleep 0.1; done; exit 1",
        file = received.display(),
        bytes = content.len()
    ))?;
    assert!(fs::read(&received).unwrap() == content, "the host has received something else");
    Ok(())
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}
