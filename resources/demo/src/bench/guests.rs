//! Two guests at the same time, ours and QEMU's, each with devices of its own. One works, and the other waits to be asked.

use guest::{Image, Machine, Result, Session};

use super::figure::Readings;
use super::piece::Piece;
use super::sides::Sides;
use super::work::Work;
use crate::cli::Who;
use crate::stage::Stage;

/// Both of them. Dropping it kills them.
pub(super) struct Guests<'stage>(Sides<Session<'stage>>);

impl<'stage> Guests<'stage> {
    /// Boots one and then the other, this one first. The first has the first half of the devices.
    pub(super) fn boot(stage: &'stage Stage, work: Work, image: &Image, first: Who) -> Result<Self> {
        let shares = stage.devices.split_at(stage.devices.len() / 2);
        let sessions = Sides::make(first, |who, place| {
            let machine: Machine = work.machine(image, if place == 0 { shares.0 } else { shares.1 });
            let mut session = Session::start(&stage.host, &machine, &who.monitor()?)?;
            session.until("holding", |_| ())?;
            Ok(session)
        });
        sessions.map(Self)
    }

    /// The same piece under one and then under the other, this one first.
    pub(super) fn pair(&mut self, piece: Piece, first: Who) -> Result<Sides<Readings>> {
        Sides::make(first, |who, _| piece.read(&self.0.get_mut(who).ask(&piece.job(), |_| ())?))
    }

    /// Ends both, which must have done all they were asked.
    pub(super) fn end(self) -> Result<()> {
        for mut session in [self.0.ours, self.0.qemu] {
            session.go_on()?;
            session.finish(|_| ())?.ended_well()?;
        }
        Ok(())
    }
}
