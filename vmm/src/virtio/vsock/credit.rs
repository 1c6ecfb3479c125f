//! Flow control of a connection (virtio 1.2 §5.10.6.3): how much each side may send. Counters wrap at 2³².
//!
//! Invariants: the device holds at most [`WINDOW`] bytes of a connection for the host, and never sends more than the
//! guest has room for.

/// Bytes that the device buffers for each connection.
pub(super) const WINDOW: u32 = 64 << 10;
/// The guest's buffer is taken to be at most as large as this, which keeps distances of counters unambiguous.
const MOST: u32 = 1 << 30;

/// A guest has broken the rules of flow control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overrun;

/// What the guest may send.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    received: u32,
    forwarded: u32,
    /// The value of `forwarded` that the guest knows.
    told: u32,
}

impl Inbound {
    /// Accepts bytes from the guest, if it had credit for them.
    pub(super) fn accept(&mut self, len: u32) -> Result<(), Overrun> {
        if len > self.known_room() {
            return Err(Overrun);
        }
        self.received = self.received.wrapping_add(len);
        Ok(())
    }

    /// Bytes have left the buffer.
    pub(super) fn forward(&mut self, len: u32) {
        self.forwarded = self.forwarded.wrapping_add(len);
    }

    /// `buf_alloc` and `fwd_cnt` for a packet, which tells the guest.
    pub(super) fn announce(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (WINDOW, self.forwarded)
    }

    /// Whether the guest may be out of credit although the buffer has room.
    pub(super) fn is_update_due(&self) -> bool {
        self.told != self.forwarded && self.known_room() < WINDOW / 2
    }

    /// Room as far as the guest knows.
    fn known_room(&self) -> u32 {
        WINDOW.saturating_sub(self.received.wrapping_sub(self.told))
    }
}

/// What the device may send.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    sent: u32,
    /// The guest's `fwd_cnt`.
    confirmed: u32,
    size: u32,
}

impl Outbound {
    /// Takes what a packet of the guest says. An older `fwd_cnt` is ignored: threads of the guest may overtake each other.
    pub(super) fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) -> Result<(), Overrun> {
        let advance = fwd_cnt.wrapping_sub(self.confirmed);
        if advance < 1 << 31 {
            if advance > self.in_flight() {
                return Err(Overrun);
            }
            self.confirmed = fwd_cnt;
        }
        self.size = buf_alloc.min(MOST);
        Ok(())
    }

    /// Bytes that may be sent.
    pub(super) fn available(&self) -> u32 {
        self.size.saturating_sub(self.in_flight())
    }

    /// Bytes were sent.
    pub(super) fn send(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }

    fn in_flight(&self) -> u32 {
        self.sent.wrapping_sub(self.confirmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_may_send_a_window_and_again_what_it_was_told_has_left() {
        let mut inbound = Inbound::default();
        assert_eq!(inbound.accept(WINDOW), Ok(()));
        assert_eq!(inbound.accept(1), Err(Overrun));
        inbound.forward(10);
        assert!(inbound.is_update_due());
        assert_eq!(inbound.accept(1), Err(Overrun), "it has not been told");
        assert_eq!(inbound.announce(), (WINDOW, 10));
        assert_eq!(inbound.accept(11), Err(Overrun));
        assert_eq!(inbound.accept(10), Ok(()));
        assert!(!inbound.is_update_due());
    }

    #[test]
    fn credit_counts_across_the_wrap_of_the_counters() {
        let mut outbound = Outbound { sent: u32::MAX - 1, confirmed: u32::MAX - 1, size: 0 };
        outbound.update(100, u32::MAX - 1).unwrap();
        outbound.send(60);
        assert_eq!(outbound.available(), 40);
        outbound.update(100, 48).unwrap();
        assert_eq!(outbound.available(), 90);
        assert_eq!(outbound.update(100, 59), Err(Overrun), "more than was sent");
        outbound.update(100, 40).unwrap();
        assert_eq!(outbound.available(), 90, "an older count");
        outbound.update(5, 48).unwrap();
        assert_eq!(outbound.available(), 0, "a buffer that shrinks");
    }
}
