//! The control: these tests detect the interrupt that is lost when MSI-X is disabled, and growing loses none.

use guest::{Line, Result};

use crate::stage::{Passed, Stage};

/// QEMU's e1000e always loses an event that is raised while MSI-X is off.
pub(crate) fn turning_msix_off_loses_an_event_and_growing_does_not(stage: &Stage) -> Result<()> {
    let program = guest::built("demo")?;
    let (program, device) = (program.display(), stage.address(Passed::Control));
    let said = stage.host.shell(&format!("{program} control --inside {device}"))?;
    println!("{said}");
    let line =
        |topic: &str| said.lines().map(Line::new).find(|line| line.topic() == topic).expect("it says so");
    let (grown, restarted) = (line("grown"), line("restarted"));
    assert!(grown.number("raised")? > 0);
    assert_eq!(grown.number("received")?, grown.number("raised")?, "while vectors were attached one by one");
    assert_eq!(restarted.value("meanwhile")?, "false", "an event while MSI-X was off did come");
    assert_eq!(restarted.value("next")?, "false", "the cause fired again");
    Ok(())
}
