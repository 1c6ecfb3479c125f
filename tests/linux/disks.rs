//! The VMM's disks under Debian's driver.

use guest::{Line, Result};

use crate::stage::{self, Stage, hold};

/// Size of each image. The guest writes noise to the first 8 MiB, and has its load behind 16 MiB.
const IMAGE_MIB: u64 = 64;

/// A guest writes to a disk with one queue and to one with four, from four CPUs, and reads both past its page cache. The host's
/// files have the same bytes. The driver is unbound and bound again while both disks are read and written. A third disk
/// is read-only.
pub(crate) fn data_is_on_the_host_after_a_flush_and_survives_rebinding_under_load(
    stage: &Stage,
) -> Result<()> {
    const DISKS: [(&str, &str, u64); 3] =
        [("one", "queues=1", 1), ("four", "queues=4,addr=05.0", 4), ("fixed", "readonly=on", 1)];
    let path = |name: &str| format!("/tmp/disk-{name}.img");
    for (name, _, _) in DISKS {
        stage.host.shell(&format!("truncate -s {IMAGE_MIB}M {}", path(name)))?;
    }
    stage.host.shell(&format!("dd if=/dev/urandom of={} bs=1M count=16 conv=notrunc", path("fixed")))?;
    let disks = DISKS.map(|(name, options, _)| format!("path={},id={name},{options}", path(name)));
    let mut machine = stage.guest_with_disks(&disks)?;
    for job in ["blk:8", "hold", "blkload", "rebind:3", "blkrest", "blk:4", "hold"] {
        machine = machine.job(job);
    }
    let mut session = stage.start(&machine)?;

    for round in 0..2 {
        hold(&mut session)?;
        let lines: Vec<Line> = session.transcript().all("blk").skip(round * DISKS.len()).cloned().collect();
        for (name, _, queues) in DISKS {
            let line = lines.iter().find(|line| line.value("serial").is_ok_and(|serial| serial == name));
            let line = line.unwrap_or_else(|| panic!("the guest has no disk {name}: {lines:?}"));
            let bytes = line.number("bytes")?;
            let digest = format!("head -c {bytes} {} | sha256sum", path(name));
            let digest = stage.host.shell(&digest)?;
            assert_eq!(Some(line.value("sha256")?), digest.split_whitespace().next(), "on the host: {line}");
            if line.number("ro")? == 0 {
                assert_eq!(line.value("sha256")?, line.value("written")?, "{line}");
                assert_eq!(line.value("cache")?, "write-back");
            }
            assert_eq!(line.number("queues")?, queues, "{line}");
            assert!(line.number("interrupts")? > 0, "{line}");
        }
        assert!(
            lines.iter().any(|line| line.value("at").is_ok_and(|at| at.ends_with("00:05.0"))),
            "{lines:?}"
        );
        if stage::is_ours() {
            let report = session.report_now()?;
            for (name, _, queues) in DISKS {
                let disk = report.named(name).expect("the disk is reported");
                let vectors: Vec<_> = disk.queues.iter().filter_map(|queue| queue.vector).collect();
                assert_eq!(vectors.len() as u64, queues, "each queue has a vector: {disk:?}");
                assert!(vectors.windows(2).all(|pair| pair[0] < pair[1]), "of its own: {disk:?}");
                let is_good =
                    |queue: &guest::Queue| queue.enabled && queue.requests > 0 && queue.invalid == 0;
                assert!(disk.queues.iter().all(is_good), "{disk:?}");
                assert_eq!(disk.host_errors, 0);
            }
        }
        session.go_on()?;
    }

    let seen = stage::finish(session)?;
    assert_eq!(seen.all("rebound").count(), 3);
    assert_eq!(seen.line("blkrest")?.number("hung")?, 0);
    for (name, _, _) in DISKS {
        stage.host.shell(&format!("rm {}", path(name)))?;
    }
    Ok(())
}
