//! The control: that an interrupt lost by turning MSI-X off is seen here as lost, and that growing loses none.

use guest::{Line, Result};

use crate::stage::{Passed, Stage};

/// QEMU's e1000e loses an event that is raised while MSI-X is off, for certain.
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
