//! Programs that nobody here wrote, from Debian's packages: each finds fault in its own way, and must find none.

use guest::{Result, Terminal};
use lab::Series;

use crate::debian::Stage;

/// Disks, entropy, the bus, timers and the ACPI tables of one guest.
pub(crate) fn find_no_fault() -> Result<()> {
    let stage = Stage::boot(Series::V6_12)?;
    let mut guest = stage.log_in("vhost=on")?;
    disks_verify(&mut guest)?;
    entropy_is_random(&mut guest)?;
    acpi_tables_compile(&mut guest)?;
    registers_endure(&mut guest)?;
    timers_fire(&mut guest)?;
    let log = guest.run("dmesg --level warn,err,crit,alert,emerg")?;
    println!("kernel log: {log}");
    assert!(
        !log.contains("lost interrupt") && !log.contains("hung") && !log.contains("nobody cared"),
        "{log}"
    );
    assert!(guest.end("poweroff")?.success());
    Ok(())
}

/// fio writes and verifies, with one job and with four, on the VMM's disk and on the passed-through one.
fn disks_verify(guest: &mut Terminal) -> Result<()> {
    for (target, size) in [("/root/fio", "32m"), ("/dev/nvme0n1", "16m")] {
        for (jobs, pattern) in [(1, "write"), (4, "randwrite")] {
            guest.run(&format!(
                "fio --name=verify --filename={target} --size={size} --offset_increment={size} --rw={pattern} --bs=16k --numjobs={jobs} \
                 --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 --group_reporting --minimal"
            ))?;
        }
    }
    Ok(())
}

/// True noise fails one of rngtest's FIPS 140-2 tests now and then.
fn entropy_is_random(guest: &mut Terminal) -> Result<()> {
    guest.run("systemctl stop rngd; cat /sys/class/misc/hw_random/rng_current | grep virtio")?;
    let said = guest.run("head -c 500100 /dev/hwrng | rngtest -c 200 || true")?;
    println!("{said}");
    let failures =
        said.lines().find_map(|line| line.split_once("FIPS 140-2 failures: ")?.1.trim().parse::<u32>().ok());
    assert!(failures.is_some_and(|failures| failures <= 3), "{said}");
    Ok(())
}

/// Every table is disassembled and compiled again without a warning, and acpiexec loads the definition blocks.
fn acpi_tables_compile(guest: &mut Terminal) -> Result<()> {
    guest.run("rm -rf /tmp/acpi; mkdir /tmp/acpi; cd /tmp/acpi; acpidump -b")?;
    let said = guest.run(
        "cd /tmp/acpi; for t in *.dat; do iasl -d $t; done; for t in *.dsl; do iasl $t; done; ls -1 *.dsl",
    )?;
    let tables = said.lines().filter(|line| line.ends_with(".dsl") && !line.contains(' ')).count();
    let clean = said.matches("Compilation successful. 0 Errors, 0 Warnings, 0 Remarks").count();
    assert!(tables >= 3 && clean == tables, "{said}");
    let said = guest.run("cd /tmp/acpi; acpiexec -b 'tables;quit' dsdt.dat")?;
    println!("{said}");
    assert!(
        said.contains("DSDT") && !said.contains("ACPI Error") && !said.contains("ACPI Warning"),
        "{said}"
    );
    Ok(())
}

/// stress-ng reads the configuration space and BARs of every device, and accesses port 0x80.
fn registers_endure(guest: &mut Terminal) -> Result<()> {
    let said = guest.run("stress-ng --pci 1 --ioport 1 --timeout 10s --metrics-brief")?;
    println!("{said}");
    assert!(said.contains("successful run completed"), "{said}");
    Ok(())
}

/// Latency itself is that of the emulation: what counts is that no timer is lost.
fn timers_fire(guest: &mut Terminal) -> Result<()> {
    let said = guest.run("cyclictest -q -m -t 2 -a -p 80 -i 10000 -d 0 -l 300")?;
    println!("{said}");
    let cycles =
        said.lines().filter_map(|line| line.split_once("C:")?.1.split_whitespace().next()?.parse().ok());
    let cycles: Vec<u32> = cycles.collect();
    // The threads start one after the other, and end with the first.
    assert!(cycles.len() == 2 && cycles.iter().all(|&cycles| cycles >= 270), "{said}");
    Ok(())
}
