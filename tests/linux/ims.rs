//! The VMM's IMS devices under a Linux driver that allocates slots from its own interrupt domain.
//!
//! The devices need KVM only, so one host kernel is enough.

use guest::{Line, Result, Tools, Transcript};
use lab::Series;

use crate::bus::section;
use crate::stage::{self, Stage};

const TIMERS: u64 = 64;

/// The guest allocates slots in a BAR and as many in memory, in random order. It rings each slot, also after a move to another CPU, while
/// it is masked, after it is freed, and after it is allocated again. As many slots are live at once as the CPUs have vectors for. MSI-X of
/// the same device works beside them. Timers need no MSI-X. After a reset of the device everything works as before.
pub(crate) fn slots_come_move_and_go_and_no_ring_is_lost(stage: &Stage) -> Result<()> {
    let slots = 256;
    let jobs = ["lspci", "ims", "imsfill", "imsreset:50", "imstimer:5", "rebind:1", "lspci"];
    let seen = run(stage, Series::V6_12, 2, slots, &jobs)?;
    for name in ["lspci-1", "lspci-2"] {
        assert_shown(&seen.section(name)?);
    }
    assert_went_through_all(seen.line("ims")?, slots, slots)?;
    let filled = seen.line("imsfill")?;
    assert_every_ring_came(filled)?;
    // Two CPUs with about 200 vectors each, some of which others have.
    let most = filled.number("most_live")?;
    assert!((300..450).contains(&most), "{most} slots at once");
    stage::say(&format!("{most} slots at once"));
    assert_every_ring_came(seen.line("imsreset")?)?;
    assert_timers(seen.line("imstimer")?)
}

/// Slots of both kinds are allocated and freed while one is rung without pause, on the kernel that has no such domains yet.
pub(crate) fn slots_come_and_go_while_one_is_rung(stage: &Stage) -> Result<()> {
    let slots = 64;
    let seen = run(stage, Series::V6_1, 2, slots, &["ims", "imspound:1000", "imstimer:2"])?;
    assert_went_through_all(seen.line("ims")?, slots, slots)?;
    let pounded = seen.line("imspound")?;
    assert_every_ring_came(pounded)?;
    let rings = pounded.number("first_rung")?;
    assert!(rings >= 1000, "{rings} rings");
    let times = seen.line("imspounded")?.number("times")?;
    stage::say(&format!(
        "{rings} rings of one slot, while {} others came and went {times} times",
        2 * slots - 1
    ));
    assert_timers(seen.line("imstimer")?)
}

/// The same with 2048 slots, all live at once. Twelve CPUs have vectors for them and for their moves.
pub(crate) fn thousands_of_slots_are_live_at_once(stage: &Stage) -> Result<()> {
    let seen = run(stage, Series::V6_12, 12, 1024, &["ims:2048"])?;
    let ims = seen.line("ims")?;
    assert_went_through_all(ims, 1024, 1024)?;
    assert_eq!(ims.number("most_live")?, 2048, "{ims}");
    Ok(())
}

fn run(stage: &Stage, kernel: Series, cpus: u32, slots: u64, jobs: &[&str]) -> Result<Transcript> {
    let tools = if jobs.contains(&"lspci") { Tools::Lspci } else { Tools::None };
    let machine = stage.guest(kernel, tools, &[])?.cpus(cpus);
    let queues = format!("ims-queues,slots={slots}");
    let timer = format!("ims-timer,slots={TIMERS}");
    let machine = machine.arguments(["--device", &queues, "--device", &timer]);
    stage.run(&jobs.iter().fold(machine, |machine, job| machine.job(job)))
}

/// Checks that every queue has received at least six interrupts, one of them on another CPU and one for two rings while it was masked, and
/// none after it was freed.
pub(crate) fn assert_went_through_all(ims: &Line, slots: u64, memory_slots: u64) -> Result<()> {
    let queues = slots + memory_slots;
    assert_eq!((ims.number("bar_slots")?, ims.number("memory_slots")?), (slots, memory_slots));
    assert_eq!((ims.number("allocations")?, ims.number("moves")?), (2 * queues, queues));
    assert_eq!(ims.number("unmoved")?, 0, "{ims}");
    assert!(ims.number("rung")? >= 6 * queues, "{ims}");
    assert_eq!((ims.number("masked_rung")?, ims.number("held")?), (2 * queues, queues), "{ims}");
    // Rings of free slots reached the device, and went no further.
    assert_eq!(ims.number("freed_rung")?, queues);
    assert_eq!(ims.number("device_dropped")?, queues, "{ims}");
    assert_every_ring_came(ims)?;
    stage::say(&format!(
        "{} rings of {queues} slots came, {} at a time; {} us to allocate one",
        ims.number("received")?,
        ims.number("most_live")?,
        ims.number("allocate_us")? / ims.number("allocations")?,
    ));
    Ok(())
}

/// Each ring was received within a second, exactly once, on its own slot or on its own MSI-X vector.
pub(crate) fn assert_every_ring_came(ims: &Line) -> Result<()> {
    assert!(ims.number("rung")? > 0);
    let wrong = ["late", "lost", "uneven", "stray", "unhandled", "msix_lost", "msix_uneven"];
    for count in wrong.into_iter().chain(["commands_refused", "device_refused"]) {
        assert_eq!(ims.number(count)?, 0, "{count}: {ims}");
    }
    assert_eq!(ims.number("received")?, ims.number("rung")?, "{ims}");
    // Vector 1 of MSI-X has the completions of commands besides, of which several may be one interrupt.
    let (rung, commands) = (ims.number("msix_rung")? / 2, ims.number("commands")?);
    assert!((rung..=rung + commands).contains(&ims.number("done_received")?), "{ims}");
    Ok(())
}

/// Each timer expired once, and not before its time by the device's clock. No disarmed timer expired.
fn assert_timers(timer: &Line) -> Result<()> {
    assert_eq!(timer.number("timers")?, TIMERS);
    assert_eq!(timer.number("received")?, timer.number("armed")?, "{timer}");
    assert_eq!(timer.number("disarmed")?, TIMERS / 2);
    for count in ["early", "lost", "stray", "unhandled", "device_dropped", "device_armed"] {
        assert_eq!(timer.number(count)?, 0, "{count}: {timer}");
    }
    let (early, most) = (timer.number("our_early")?, timer.number("our_early_max_us")?);
    if early > 0 {
        stage::say(&format!("{early} timers were early by the guest's own clock, by up to {most} us"));
    }
    Ok(())
}

/// Both devices say that they have IMS.
fn assert_shown(listed: &str) {
    for device in ["[1af4:10f0]", "[1af4:10f1]"] {
        let shown = section(listed, device);
        println!("{shown}");
        assert!(
            shown.contains("Designated Vendor-Specific: Vendor=8086 ID=0005 Rev=1 Len=24"),
            "no DVSEC in:\n{shown}"
        );
        assert_eq!(shown.contains("MSI-X: Enable+ Count=2"), device.contains("10f1"), "{shown}");
        assert!(!shown.contains("Interrupt: pin") && !shown.contains("!!!"), "{shown}");
    }
}
