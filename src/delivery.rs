//! The contract between a store and a domain: the delivery of each vector, and the vectors whose delivery may
//! have changed.
//!
//! A domain knows nothing else about MSI, MSI-X or IMS. A new kind of store implements [`Store`].

use std::fmt;
use std::ops::Range;

use crate::message::MsiMessage;

/// The index of a vector in its store, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Vector(pub u32);

impl Vector {
    /// The vector as an index into a slice.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value that a device stores beside a message to identify the owner of the interrupt, such as a PASID.
/// This crate does not interpret it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cookie(pub u32);

/// The delivery of a vector that the guest has set. It depends only on the store's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The guest does not use the vector. Its host vector may be released.
    Off,
    /// The guest has masked the vector. Interrupts wait, and show as pending.
    Held,
    /// Interrupts are delivered as this message.
    Live(MsiMessage),
}

impl Delivery {
    /// Whether a change from `before` to this needs a host call. Off to Held needs none, because no irqfd
    /// exists. A cached host vector expires as usual.
    pub(crate) fn concerns_host(self, before: Self) -> bool {
        self != before && (before, self) != (Self::Off, Self::Held)
    }
}

/// The registers of one kind of message-signalled interrupt, as a domain sees them.
pub trait Store {
    /// How many vectors the guest may use now. It is 0 while the capability is disabled, and the domain then
    /// disables it in the host.
    fn vectors(&self) -> u32;

    /// The present delivery of `vector`. A vector that does not exist is [`Delivery::Off`].
    fn delivery(&self, vector: Vector) -> Delivery;

    /// The cookie that `vector`'s interrupts carry beside their message. MSI and MSI-X have none.
    fn cookie(&self, _vector: Vector) -> Option<Cookie> {
        None
    }

    /// Whether the driver has rewritten `vector`'s message unchanged since the last call. The device may then
    /// have lost it. A store that cannot tell returns false.
    fn take_rewritten(&self, _vector: Vector) -> bool {
        false
    }

    /// Delivery and cookie, read together. A store with cookies must override this. Otherwise a message could
    /// be sent with the cookie of another message.
    fn answer(&self, vector: Vector) -> (Delivery, Option<Cookie>) {
        (self.delivery(vector), self.cookie(vector))
    }
}

/// The vectors whose [`Delivery`] or cookie may have changed: one range, often empty.
///
/// The change takes effect in the host when a domain [syncs](crate::Domain::sync) them.
#[must_use = "the host does not know of the change until the domain has synced it"]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    vectors: Range<u32>,
    /// The driver has set the enable bit, which was set already.
    writes_enable: bool,
}

impl Touched {
    /// No vector changed.
    pub const NOTHING: Self = Self::range(0..0);

    /// One vector.
    pub fn one(vector: Vector) -> Self {
        Self::range(vector.0..vector.0.saturating_add(1))
    }

    /// The first `count` vectors of a store.
    pub fn first(count: u32) -> Self {
        Self::range(0..count)
    }

    const fn range(vectors: Range<u32>) -> Self {
        Self { vectors, writes_enable: false }
    }

    /// Adds that the driver has set the enable bit although it was set already. Drivers do so after the
    /// device has reset itself. Linux also does so each time it writes an MSI message.
    pub fn with_enable_write(self) -> Self {
        Self { writes_enable: true, ..self }
    }

    /// Whether the driver has set the enable bit although it was set already.
    pub fn writes_enable(&self) -> bool {
        self.writes_enable
    }

    /// The smallest range that contains both.
    pub fn and(self, other: Self) -> Self {
        let writes_enable = self.writes_enable || other.writes_enable;
        let vectors = match (self.vectors.is_empty(), other.vectors.is_empty()) {
            (true, _) => other.vectors,
            (_, true) => self.vectors,
            _ => self.vectors.start.min(other.vectors.start)..self.vectors.end.max(other.vectors.end),
        };
        Self { vectors, writes_enable }
    }

    /// Whether the host need not be told anything.
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty() && !self.writes_enable
    }

    /// The vectors, ascending.
    pub fn vectors(&self) -> impl Iterator<Item = Vector> + use<> {
        self.vectors.clone().map(Vector)
    }

    /// The vectors below `capacity`, ascending.
    pub(crate) fn below(&self, capacity: u32) -> impl Iterator<Item = Vector> + use<> {
        (self.vectors.start..self.vectors.end.min(capacity)).map(Vector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_except_off_to_held_concerns_the_host() {
        let live = |data| Delivery::Live(MsiMessage { address: 0xfee0_0000, data });
        let all = [Delivery::Off, Delivery::Held, live(0x41), live(0x42)];
        for (before, after) in all.into_iter().flat_map(|before| all.map(|after| (before, after))) {
            let is_needless = before == after || (before, after) == (Delivery::Off, Delivery::Held);
            assert_eq!(after.concerns_host(before), !is_needless, "{before:?} to {after:?}");
        }
    }

    #[test]
    fn nothing_touched_adds_nothing() {
        let one = Touched::one(Vector(7));
        assert_eq!(Touched::NOTHING.and(one.clone()), one);
        assert_eq!(one.clone().and(Touched::NOTHING), one);
    }

    #[test]
    fn two_touches_cover_both() {
        let both = Touched::one(Vector(3)).and(Touched::one(Vector(1)));
        assert_eq!(both.vectors().collect::<Vec<_>>(), [Vector(1), Vector(2), Vector(3)]);
    }
}
