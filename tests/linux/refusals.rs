//! Reasons not to start, on a real host. The VMM prints one line with the remedy, and its status is not 0.

use std::time::Duration;

use guest::{Result, Tools};
use lab::{Command, Series};

use crate::stage::{self, Passed, Stage, Where, hold};

/// Status for wrong input, and for a host that cannot.
const INPUT: i32 = 2;
const HOST: i32 = 1;

#[test]
fn a_device_with_a_host_driver() {
    stage::on(Where::Lab(Series::V6_12), |stage| {
        let address = stage.host.shell("cd /sys/bus/pci/drivers/virtio-pci && ls -d 0000:* | head -n 1")?;
        refused(stage, "", &vfio(address.trim()), INPUT, &[address.trim(), "virtio-pci", "vfio-pci"])
    });
}

#[test]
fn a_device_that_shares_its_group_with_the_hosts() {
    stage::on(Where::Lab(Series::V6_12), |stage| {
        let find = |what: &str| {
            let found = stage.host.shell(&format!("lspci -D -n -d {what} | cut -d' ' -f1"))?;
            Ok::<_, guest::Error>(found.trim().to_owned())
        };
        let (spare, used) = (find(stage::SPARE_IN_SHARED_GROUP)?, find(stage::USED_IN_SHARED_GROUP)?);
        let lab = guest::built("lab")?;
        stage.host.shell(&format!("{} bind {spare}", lab.display()))?;
        refused(stage, "", &vfio(&spare), INPUT, &[&spare, "group", &used, "(virtio-pci)", "vfio-pci"])
    });
}

#[test]
fn a_bridge() {
    stage::on(Where::Lab(Series::V6_12), |stage| {
        let bridge = stage.host.shell("lspci -D -n -d ::0604 | cut -d' ' -f1 | head -n 1")?;
        let says = ["--vfio", bridge.trim(), "is a bridge, and cannot be passed through"];
        refused(stage, "", &vfio(bridge.trim()), INPUT, &says)
    });
}

#[test]
fn an_address_that_two_devices_cannot_have() {
    stage::on(Where::Lab(Series::V6_12), |stage| {
        let (disk, card) = (stage.address(Passed::Disk), stage.address(Passed::Card));
        let both = format!("--vfio {disk},addr=05.0 --vfio {card},addr=05.0");
        refused(stage, "", &both, INPUT, &[card, "00:05.0", "addr"])?;
        let alone = format!("--vfio {card},addr=05.1");
        refused(stage, "", &alone, INPUT, &[card, "00:05.1", "no function 0"])
    });
}

#[test]
fn a_device_in_use() {
    stage::on(Where::Lab(Series::V6_12), |stage| {
        let machine = stage.guest(Series::V6_12, Tools::None, &[Passed::Doorbell])?.job("hold").job("grow");
        let mut first = stage.start(&machine)?;
        hold(&mut first)?;
        refused(stage, "", &vfio(stage.address(Passed::Doorbell)), HOST, &["in use"])?;
        // The one that has it did not notice.
        first.go_on()?;
        crate::growth::assert_every_ring_came(stage::finish(first)?.line("doorbell")?)
    });
}

#[test]
fn no_kvm() {
    stage::on(Where::Lab(Series::V6_12), |stage| {
        let hidden = "unshare --mount sh -c 'mount -t tmpfs none /dev && exec \"$@\"' sh";
        refused(stage, hidden, &vfio(stage.address(Passed::Doorbell)), HOST, &["/dev/kvm", "kvm-amd"])
    });
}

#[test]
fn no_vfio() {
    stage::on(Where::Lab(Series::V6_12), |stage| {
        let hidden = "unshare --mount sh -c 'mount -t tmpfs none /dev/vfio && exec \"$@\"' sh";
        refused(stage, hidden, &vfio(stage.address(Passed::Doorbell)), HOST, &["/dev/vfio/vfio", "modprobe"])
    });
}

#[test]
fn no_permission() {
    stage::on(Where::Lab(Series::V6_12), |stage| {
        let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
        refused(stage, nobody, &vfio(stage.address(Passed::Doorbell)), HOST, &["/dev/kvm", "permission"])
    });
}

#[test]
fn an_ims_that_its_device_cannot_fire() {
    stage::on(Where::Lab(Series::V6_12), |stage| {
        let mediated =
            |device, slots| format!("--device ims-mediated,host={},slots={slots}", stage.address(device));
        let words = ["64 slots need a host vector each", "has 64", stage.address(Passed::Doorbell)];
        refused(stage, "", &mediated(Passed::Doorbell, 64), HOST, &words)?;
        let words = ["not known", "ivshmem-doorbell", stage.address(Passed::Disk)];
        refused(stage, "", &mediated(Passed::Disk, 4), HOST, &words)
    });
}

fn vfio(address: &str) -> String {
    format!("--vfio {address}")
}

/// The VMM, started in this way with this device, ends with `status` and says one line with these words in it.
fn refused(stage: &Stage, prefix: &str, option: &str, status: i32, words: &[&str]) -> Result<()> {
    let kernel = stage.kernel(Series::V6_12)?;
    // Copies that everybody may read, whoever owns the directory they were built in.
    let script = format!(
        "cp '{}' /run/vmm && cp '{}' /run/vmlinuz && chmod a+rx /run/vmm && chmod a+r /run/vmlinuz && \
         exec {prefix} /run/vmm --kernel /run/vmlinuz {option}",
        guest::built("vmm")?.display(),
        kernel.display()
    );
    let output = stage.host.lab()?.output(Command::shell(script).timeout(Duration::from_secs(60)))?;
    let said = output.stderr_text();
    println!("{said}");
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert_eq!(said.lines().count(), 1, "more than one line: {said}");
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
    Ok(())
}
