//! Ours beside the installed QEMU, in one lab host, in one run.

use std::process::ExitCode;
use std::time::Duration;

use guest::{Host, Image, Machine, Monitor, Result, Session, Tools, Transcript};
use lab::{Cache, Config, Lab, Refresh, Series};

use crate::cli;
use crate::screen::Screen;
use crate::stage::Stage;

/// At most this part of QEMU's time until init.
const BOOT_RATIO: f64 = 0.6;

/// Vector 0 rings without pause while the others come and go.
pub(crate) fn losses(cli: &cli::CompareLosses) -> Result<ExitCode> {
    let screen = Screen::new();
    let (cache, image) = image(&[cli.host, Series::V6_12])?;
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

/// The time until init, boot for boot in turn.
pub(crate) fn boot(cli: &cli::CompareBoot) -> Result<ExitCode> {
    let screen = Screen::new();
    let (cache, image) = image(&[cli.host, Series::V6_12])?;
    let host = Host::Lab(Box::new(Lab::boot(&cache, Config::new(cli.host))?));
    let machine = Machine::new(&image).cpus(cli.cpus);
    let (mut ours, mut qemu) = (Vec::new(), Vec::new());
    for boot in 1..=cli.boots {
        for (name, monitor, times) in
            [("ours", Monitor::ours()?, &mut ours), ("QEMU", Monitor::Qemu, &mut qemu)]
        {
            let seen: Transcript = Session::start(&host, &machine, &monitor)?.finish(|_| ())?;
            screen.step(&format!("boot {boot}, {name}: init after {:.2} s", seen.init_after.as_secs_f64()));
            times.push(seen.init_after);
        }
    }
    // The emulated host becomes slower from boot to boot, so only the two of a turn are compared.
    let mut ratios: Vec<f64> =
        ours.iter().zip(&qemu).map(|(o, q)| o.as_secs_f64() / q.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios.get(ratios.len() / 2).copied().unwrap_or(f64::INFINITY);
    println!(
        "  medians: ours {:.2} s, QEMU {:.2} s; of the ratios of each turn {ratio:.2} ({})",
        median(&mut ours).as_secs_f64(),
        median(&mut qemu).as_secs_f64(),
        ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(", ")
    );
    Ok(if ratio <= BOOT_RATIO { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn image(series: &[Series]) -> Result<(Cache, Image)> {
    let cache = Cache::open()?;
    lab::provision(&cache, series, Refresh::Keep)?;
    let image = Image::build(&cache, Series::V6_12, Tools::None)?;
    Ok((cache, image))
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
