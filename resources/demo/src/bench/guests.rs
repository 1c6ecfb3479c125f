//! Two guests at the same time, ours and QEMU's, each with devices of its own. One works, and the other stands still.
//!
//! A guest that waits is stopped with its monitor: idle ones wake up for timers, each in its own way (seen: 3 % of an
//! emulated CPU under ours, 11 % under QEMU), and that would come out of the other's time.

use std::time::Duration;

use guest::{Image, Result, Session};
use lab::{Command, Job, Lab, Said};

use super::figure::Readings;
use super::piece::Piece;
use super::sides::Sides;
use super::work::Work;
use crate::monitor::MonitorKind;
use crate::stage::Stage;

/// How long a shell may take to send a signal.
const PATIENCE: Duration = Duration::from_secs(60);

/// Both of them. Dropping it kills them.
pub(super) struct Guests<'stage> {
    sessions: Sides<Session<'stage>>,
    signals: Signals,
}

impl<'stage> Guests<'stage> {
    /// Boots one and then the other, this one first. The first has the first half of the devices.
    pub(super) fn boot(stage: &'stage Stage, work: Work, image: &Image, first: MonitorKind) -> Result<Self> {
        let shares = stage.devices.split_at(stage.devices.len() / 2);
        let mut signals = Signals::new(stage.host.lab()?)?;
        let sessions = Sides::make(first, |who, place| {
            let machine = work.machine(image, if place == 0 { shares.0 } else { shares.1 });
            let mut session = Session::start(&stage.host, &machine, &who.monitor()?)?;
            session.until("holding", |_| ())?;
            signals.send("STOP", session.pid()?)?;
            Ok(session)
        })?;
        Ok(Self { sessions, signals })
    }

    /// The same piece under one and then under the other, this one first.
    pub(super) fn pair(&mut self, piece: Piece, first: MonitorKind) -> Result<Sides<Readings>> {
        let Self { sessions, signals } = self;
        Sides::make(first, |who, _| {
            let session = sessions.get_mut(who);
            signals.send("CONT", session.pid()?)?;
            let seen = session.ask(&piece.job(), |_| ())?;
            signals.send("STOP", session.pid()?)?;
            piece.read(&seen)
        })
    }

    /// Ends both, which must have done all they were asked.
    pub(super) fn end(mut self) -> Result<()> {
        for mut session in [self.sessions.ours, self.sessions.qemu] {
            self.signals.send("CONT", session.pid()?)?;
            session.go_on()?;
            session.finish(|_| ())?.ended_well()?;
        }
        Ok(())
    }
}

/// A shell in the lab host that sends signals: to start a program for each would touch the host's caches.
struct Signals(Job);

impl Signals {
    fn new(lab: &Lab) -> Result<Self> {
        const SENDER: &str = "while read -r signal pid; do kill -$signal $pid && echo sent; done";
        Ok(Self(lab.start(Command::shell(SENDER).with_input())?))
    }

    /// Returns when it was sent.
    fn send(&mut self, signal: &str, pid: u32) -> Result<()> {
        self.0.allow(PATIENCE);
        self.0.input().send(format!("{signal} {pid}\n").as_bytes())?;
        match self.0.receive()? {
            Said::Stdout(_) => Ok(()),
            other => Err(lab::Error::Agent(format!("SIG{signal} was not sent: {other:?}")).into()),
        }
    }
}
