//! Lost interrupts, ours beside the installed QEMU's, in one lab host, in one run.

use std::process::ExitCode;

use clap::Args;
use guest::{Image, Machine, Monitor, Result, Session, Tools};
use lab::{Cache, Refresh, Series};

use crate::screen::Screen;
use crate::stage::Stage;

/// Lost interrupts beside QEMU's.
#[derive(Args, Clone)]
pub(crate) struct CompareLosses {
    /// The kernel of the emulated host.
    #[arg(long, default_value_t = Series::V6_1)]
    pub(crate) host: Series,
    /// How often vector 0 rings at least.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) rings: u64,
    /// How often vector 0 rings at least under QEMU.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) qemu_rings: u64,
    /// vCPUs of the guest.
    #[arg(long, default_value_t = 2)]
    pub(crate) cpus: u32,
}

/// Vector 0 rings without pause while the others come and go.
pub(crate) fn losses(cli: &CompareLosses) -> Result<ExitCode> {
    let screen = Screen::new();
    let cache = Cache::open()?;
    lab::provision(&cache, &[cli.host, Series::V6_12], Refresh::Keep)?;
    let image = Image::build(&cache, Series::V6_12, Tools::None)?;
    let stage = Stage::doorbell(&cache, cli.host)?;
    let mut lost_by_us = 0;
    let mut rows = Vec::new();
    for (name, monitor, rings) in
        [("ours", Monitor::ours()?, cli.rings), ("QEMU", Monitor::Qemu, cli.qemu_rings)]
    {
        screen.step(&format!("{name}: at least {rings} rings on a Linux {} host", cli.host));
        let mut machine = Machine::new(&image).cpus(cli.cpus).job(&format!("pound:{rings}"));
        for address in &stage.devices {
            machine = machine.vfio(address);
        }
        let seen = Session::start(&stage.host, &machine, &monitor)?.finish(|event| screen.event(event))?;
        let line = seen.line("doorbell")?;
        let (rung, lost) = (line.number("rung")?, line.number("lost")?);
        let growths = line.number("growths")?;
        let each = line.number("grow_us")? as f64 / growths.max(1) as f64;
        rows.push(format!("  {name}: {lost} of {rung} lost, {growths} vectors grown in {each:.0} us each"));
        if monitor != Monitor::Qemu {
            lost_by_us = lost;
        }
    }
    screen.step("Interrupts lost");
    println!("{}", rows.join("\n"));
    Ok(if lost_by_us == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
