//! The host allocates only the vectors that the guest uses, not the whole table.

use guest::{Result, Session, Tools};
use lab::Series;

use crate::growth::assert_every_ring_came;
use crate::stage::{self, Passed, Stage, hold};

/// With 3 of 2048 vectors in use: 3 requested interrupts, 3 eventfds, 3 GSIs. With 9: 6 more of each.
pub(crate) fn takes_from_the_host_what_the_guest_uses(stage: &Stage) -> Result<()> {
    if !stage.has_one_of(&[Passed::Wide]) {
        return Ok(());
    }
    let machine = stage.guest(Series::V6_12, Tools::None, &[Passed::Wide])?;
    let machine = machine.job("grow:3").job("hold").job("grow:9").job("hold");
    let mut session = stage.start(&machine)?;
    hold(&mut session)?;
    let eventfds_of_three = eventfds(stage, &session)?;
    assert_in_use(stage, &session, 3)?;
    session.go_on()?;
    hold(&mut session)?;
    let eventfds_of_nine = eventfds(stage, &session)?;
    assert_in_use(stage, &session, 9)?;
    if stage::is_ours() {
        assert_eq!(eventfds_of_nine - eventfds_of_three, 6, "eventfds for 6 more vectors");
    }
    session.go_on()?;
    assert_every_ring_came(stage::finish(session)?.line("doorbell")?)
}

fn assert_in_use(stage: &Stage, session: &Session<'_>, vectors: u32) -> Result<()> {
    let address = stage.address(Passed::Wide);
    assert_eq!(stage.host.vectors(address)?.requested, vectors, "interrupts requested on the host");
    if stage::is_ours() {
        let report = session.report_now()?;
        let msix = report.msix(address).expect("its MSI-X is reported");
        assert_eq!(msix.vectors, 2048);
        assert_eq!((msix.domain.host_vectors, msix.domain.live), (vectors, vectors));
        assert_eq!(msix.domain.counters.high_water, vectors);
        assert_eq!(report.routes.in_use, u64::from(vectors), "GSIs that some vector is live on");
    }
    Ok(())
}

/// Eventfds that the monitor has open.
fn eventfds(stage: &Stage, session: &Session<'_>) -> Result<usize> {
    let pid = session.pid()?;
    let links = stage.host.shell(&format!("ls -l /proc/{pid}/fd"))?;
    Ok(links.lines().filter(|link| link.contains("[eventfd]")).count())
}
