//! A guest's remapping unit, on real irqfds. Vectors move when the guest invalidates a remapping entry. Their messages do not change.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use vm_msi::domain::State;
use vm_msi::kvm::Irqchip;
use vm_msi::remap::{Remapped, handle};
use vm_msi::testing::FakeStage;
use vm_msi::{MsiMessage, RequesterId};

use crate::bare_metal::{Card, ENABLE, Guest, IRQCHIPS, Machine, eventually, fixed};

/// A function behind a remapping unit.
pub(crate) type RemappedCard = Card;

/// The remapping unit of one guest, for one card.
pub(crate) struct Unit {
    stage: Arc<FakeStage>,
    requester: RequesterId,
}

impl Unit {
    /// Plugs in a card of `vectors` vectors behind its own remapping unit.
    pub(crate) fn plug(machine: &mut Machine, vectors: u16) -> (Self, Arc<RemappedCard>) {
        let (stage, requester) = (Arc::new(FakeStage::default()), RequesterId(0x0008));
        let router = Remapped::new(machine.router(), stage.clone(), requester);
        let card = machine.plug_behind(Arc::new(router), vectors);
        (Self { stage, requester }, card)
    }

    /// A guest changes or removes remapping entries, and invalidates them.
    pub(crate) fn remap(
        &self,
        card: &RemappedCard,
        entries: Range<u8>,
        message: impl Fn(u8) -> Option<MsiMessage>,
    ) {
        for entry in entries.clone() {
            self.stage.write(entry, message(entry).map(|message| (self.requester, message)));
        }
        self.stage.invalidate(entries.start.into()..entries.end.into());
        card.msix.invalidate();
    }
}

/// A guest of two CPUs. Vectors 0 to 7 are requested with remapping entries of the same number, which are not present.
fn guest_with_8_vectors(irqchip: Irqchip) -> (Guest, Unit, Arc<RemappedCard>) {
    let mut machine = Machine::new(irqchip, 2);
    let (unit, card) = Unit::plug(&mut machine, 8);
    let guest = machine.start();
    guest.perform(0, &[card.control(ENABLE)]);
    let requests: Vec<_> =
        (0..8).flat_map(|vector| card.request(vector, handle::message(vector as u16))).collect();
    guest.perform(0, &requests);
    (guest, unit, card)
}

#[test]
fn a_vector_waits_for_its_entry_and_moves_with_it_inside_the_kernel() {
    for irqchip in IRQCHIPS {
        let (guest, unit, card) = guest_with_8_vectors(irqchip);
        (0..8).for_each(|vector| card.device.raise(vector));
        guest.settle(0);
        assert_eq!((guest.all_interrupts(0), guest.all_interrupts(1)), (0, 0), "no entry is present");
        assert_eq!((guest.read(0, card.pba(), 8), card.msix.failed_steps()), (0xff, 0));
        assert_eq!(card.msix.report().counters.remapping_faults, 8);

        unit.remap(&card, 0..8, |entry| Some(fixed(0, 0x40 + entry)));
        (0..8).for_each(|vector| guest.wait_for(0, 0x40 + vector, 1));
        assert_eq!(card.msix.report().live, 8, "in the kernel");

        // One entry alone, to the other CPU and another vector.
        unit.remap(&card, 3..4, |_| Some(fixed(1, 0x60)));
        (0..8).for_each(|vector| card.device.raise(vector));
        guest.wait_for(1, 0x60, 1);
        (0..8).filter(|vector| *vector != 3).for_each(|vector| guest.wait_for(0, 0x40 + vector, 2));
        assert_eq!(guest.interrupts(0, 0x43), 1);

        // Out of the table, and back.
        unit.remap(&card, 0..8, |_| None);
        card.device.raise(5);
        guest.settle(0);
        assert_eq!((guest.interrupts(0, 0x45), guest.read(0, card.pba(), 8)), (2, 1 << 5));
        unit.remap(&card, 0..8, |entry| Some(fixed(1, 0x40 + entry)));
        guest.wait_for(1, 0x45, 1);
        let messages: Vec<_> =
            guest.perform(0, &(0..8).flat_map(|v| card.read_message(v)).collect::<Vec<_>>());
        let written = (0..8).flat_map(|v| {
            let message = handle::message(v);
            [message.address, message.data.into()]
        });
        assert!(messages.into_iter().eq(written), "the guest's table is as the guest wrote it");
    }
}

#[test]
fn under_a_storm_of_signals_a_vector_that_moves_loses_none_and_none_comes_where_it_was() {
    const HANDLER: u8 = 0x40;
    const MOVES: u64 = 500;
    for irqchip in IRQCHIPS {
        let (guest, unit, card) = guest_with_8_vectors(irqchip);
        unit.remap(&card, 0..1, |_| Some(fixed(0, HANDLER)));
        let (done, note, moves) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                // A burst for each move, or the guest would do nothing but take interrupts.
                while !done.load(Ordering::Relaxed) {
                    let moved = moves.load(Ordering::Relaxed);
                    for _ in 0..50 {
                        let next = note.load(Ordering::Relaxed) + 1;
                        guest.note(HANDLER, next);
                        note.store(next, Ordering::Relaxed);
                        card.device.raise(0);
                    }
                    while moved == moves.load(Ordering::Relaxed) && !done.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_micros(20));
                    }
                }
            });
            let _done = Done(&done);
            let mut left = [None; 2];
            for round in 1..=MOVES {
                let (old, new) = ((round - 1) % 2, round % 2);
                let count = |cpu: u64| guest.interrupts(cpu as u8, HANDLER);
                if let Some(before) = left[new as usize] {
                    assert_eq!(
                        count(new),
                        before,
                        "interrupts where the vector was not, before move {round}"
                    );
                }
                unit.remap(&card, 0..1, |_| Some(fixed(new as u8, HANDLER)));
                // What came before is in the local APIC; nothing comes from here on.
                guest.settle(old as u8);
                left[old as usize] = Some(count(old));
                moves.fetch_add(1, Ordering::Relaxed);
            }
        });
        let note = note.load(Ordering::Relaxed);
        eventually(|| guest.seen(HANDLER) == note, || format!("interrupt {note}: {}", guest.seen(HANDLER)));
        assert!(note >= MOVES);
        let states: Vec<State> = card.msix.report().vectors.iter().map(|vector| vector.state).collect();
        assert_eq!(states[0], State::Live);
    }
}

struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
