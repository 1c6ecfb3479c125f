//! One vector rings without pause while all others are requested and freed. No ring is lost.

use guest::{Result, Tools};
use lab::Series;

use crate::growth::assert_every_ring_came;
use crate::stage::{self, Passed, Stage, hold, show};

/// At least 10000 rings of vector 0, while vectors 1 to 63 are allocated and freed again and again.
pub(crate) fn loses_nothing_while_others_come_and_go(stage: &Stage) -> Result<()> {
    pound(stage, 10_000)
}

/// Ten times as many.
pub(crate) fn loses_nothing_in_a_hundred_thousand_rings(stage: &Stage) -> Result<()> {
    pound(stage, 100_000)
}

fn pound(stage: &Stage, rings: u64) -> Result<()> {
    if !stage.has_one_of(&[Passed::Doorbell]) {
        return Ok(());
    }
    let machine = stage.guest(Series::V6_12, Tools::None, &[Passed::Doorbell])?;
    let enable = stage.watch_msix_enable()?;
    let mut session = stage.start(&machine.job(&format!("pound:{rings}")).job("hold"))?;
    let pounded = session.until("pounded", show)?;
    hold(&mut session)?;
    let doorbell = session.transcript().line("doorbell")?;
    let (rung, lost) = (doorbell.number("rung")?, doorbell.number("lost")?);
    let times = pounded.number("times")?;
    let (us, growths) = (doorbell.number("grow_us")?, doorbell.number("growths")?);
    stage::say(&format!(
        "{}: {lost} of {rung} rings lost, the slowest took {} us; the others came and went {times} times, \
         {} us a vector",
        stage.place,
        doorbell.number("slowest_us")?,
        us / growths.max(1)
    ));
    assert!(doorbell.number("first_rung")? >= rings);
    assert!(times >= 2, "vectors were never freed and grown again");
    assert_every_ring_came(doorbell)?;
    if stage::is_ours() {
        enable.assert_never_off()?;
    }
    session.go_on()?;
    stage::finish(session).map(drop)
}
