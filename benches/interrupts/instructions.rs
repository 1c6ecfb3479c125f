//! Instructions of the userspace paths, counted by valgrind: the same on every run and under any load, so they
//! guard against regressions where times cannot. System calls count nothing here.
//!
//! A path is run under callgrind in a process of its own, once for some repetitions and once for more; the difference
//! is the path's, without its preparation. `bounds.json` has what each may take; `make instructions` compares.

use std::hint::black_box;
use std::process::Command;
use std::{env, fs};

use serde_json::{Map, Value};
use vm_msi::{SoftwareMsix, Vector};

use crate::measure::Result;
use crate::message::message;
use crate::ours::{Ahead, Ours, layout};

const BOUNDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/interrupts/bounds.json");

/// A name, and what to do so often.
type Path = (&'static str, fn(usize) -> Result<()>);

const PATHS: [Path; 11] = [
    ("table_read", |times| idle(times, |ours, _| ours.function.read_table(black_box(1608), &mut [0; 4]))),
    ("table_write_masked_4", |times| {
        idle(times, |ours, time| {
            ours.function.write_table(black_box(1608), &(time as u32 & 1).to_le_bytes());
        })
    }),
    ("table_write_masked_8", |times| {
        idle(times, |ours, time| {
            ours.function.write_table(black_box(1600), &(time as u64 & 1).to_le_bytes());
        })
    }),
    ("table_write_unchanged", |times| {
        live(times, |ours, _| ours.function.write_table(black_box(8), &ours_data(0)))
    }),
    ("pba_read_none_pending", |times| {
        live(times, |ours, _| ours.function.read_pba(black_box(0), &mut [0; 8]))
    }),
    ("mask_unmask", |times| {
        live(times, |ours, _| {
            ours.write_control(32, 1);
            ours.write_control(32, 0);
        })
    }),
    ("retarget", |times| {
        live(times, |ours, time| {
            ours.write_control(32, 1);
            ours.write_message(32, message(32 + time % 2));
            ours.write_control(32, 0);
        })
    }),
    ("enable_one_by_one", |times| {
        Ours::new(Ahead::AtStart).map(|mut ours| _ = ours.enable_one_by_one(times))
    }),
    ("enable_one_by_one_blocks", |times| {
        Ours::new(Ahead::InBlocks).map(|mut ours| _ = ours.enable_one_by_one(times))
    }),
    ("enable_at_once", |times| Ours::new(Ahead::AtStart).map(|mut ours| _ = ours.enable_at_once(times))),
    ("software_trigger", |times| {
        let ours = Ours::ringing(Ahead::InBlocks)?;
        let software = SoftwareMsix::software(layout(1)?, ours.router.clone());
        software.write_table(0, &0xfee0_0000u64.to_le_bytes());
        software.write_table(8, &0x41u64.to_le_bytes());
        software.write_config(2, &0x8000u16.to_le_bytes());
        (0..times).for_each(|_| software.trigger(black_box(Vector(0))));
        match software.counters().host_failures {
            0 => Ok(()),
            refused => Err(format!("{refused} triggers were refused").into()),
        }
    }),
];

fn idle(times: usize, access: impl Fn(&Ours, usize)) -> Result<()> {
    let mut ours = Ours::new(Ahead::AtStart)?;
    ours.enable_at_once(1);
    ours.write_message(100, message(100));
    (0..times).for_each(|time| access(&ours, time));
    Ok(())
}

fn live(times: usize, access: impl Fn(&Ours, usize)) -> Result<()> {
    let mut ours = Ours::new(Ahead::AtStart)?;
    ours.enable_at_once(64);
    (0..times).for_each(|time| access(&ours, time));
    Ok(())
}

fn ours_data(index: usize) -> [u8; 4] {
    message(index).1.to_le_bytes()
}

/// Runs one path, so often: what a process under callgrind does.
pub(crate) fn run(name: &str, times: usize) -> Result<()> {
    let (_, path) = PATHS.iter().find(|(path, _)| *path == name).ok_or("no such path")?;
    path(times)
}

/// Counts every path, and fails where one takes more than its bound.
pub(crate) fn check() -> Result<()> {
    if let Err(error) = Command::new("valgrind").arg("--version").output() {
        println!("instructions: skipped, valgrind does not run here ({error})");
        return Ok(());
    }
    if let Err(error) = Ours::new(Ahead::InBlocks) {
        println!("instructions: skipped, {error}");
        return Ok(());
    }
    let bounds: Map<String, Value> = serde_json::from_str(&fs::read_to_string(BOUNDS)?)?;
    let mut beyond = Vec::new();
    println!("path                       instructions   at most");
    for (name, _) in PATHS {
        let counted = (count(name, 512)? - count(name, 256)?) / 256;
        let bound = bounds.get(name).and_then(Value::as_u64).ok_or("a path without a bound")?;
        println!("{name:26} {counted:>12} {bound:>9}");
        if counted > bound {
            beyond.push(name);
        }
    }
    if beyond.is_empty() { Ok(()) } else { Err(format!("beyond their bounds: {}", beyond.join(", ")).into()) }
}

fn count(name: &str, times: usize) -> Result<u64> {
    let out = env::temp_dir().join(format!("vm-msi-{}.callgrind", std::process::id()));
    let mut callgrind = Command::new("valgrind");
    callgrind.args(["-q", "--tool=callgrind"]).arg(format!("--callgrind-out-file={}", out.display()));
    let output = callgrind.arg(env::current_exe()?).args(["path", name, &times.to_string()]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let text = fs::read_to_string(&out)?;
    fs::remove_file(out)?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("summary: ")).ok_or("callgrind counted nothing")?;
    Ok(line.trim().parse()?)
}
