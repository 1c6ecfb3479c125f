//! The MSI-X structures of a function in BARs: the table and the pending bits.

use super::InterruptFunction;
use crate::access::lanes;
use crate::domain::Domain;
use crate::msix::{Bar, Layout, Msix, Owner};

impl<D: Domain> InterruptFunction<Msix, D> {
    /// The windows of the table and of the pending bits.
    pub fn layout(&self) -> &Layout {
        self.registers.layout()
    }

    /// Reads the table. `offset` is in bytes from its first entry.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        self.registers.read_table(offset, data);
        self.sync_shown_by_table(offset, data.len());
    }

    /// Writes the table. `offset` is in bytes from its first entry.
    ///
    /// Interrupts meanwhile: none is lost. When this returns, no interrupt is delivered for a masked vector,
    /// nor on an entry's old message.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let touched = self.registers.write_table(offset, data);
        let is_one_entry = data.len() <= 4;
        if !touched.is_empty() {
            self.domain.sync(&self.registers, touched);
            if is_one_entry {
                // The only vector that the access shows has just been synced.
                return;
            }
        }
        self.sync_shown_by_table(offset, data.len());
    }

    /// Reads the pending bits. `offset` is in bytes from the first one. They are read-only: a write is
    /// ignored.
    pub fn read_pba(&self, offset: u64, data: &mut [u8]) {
        let mut group = None;
        for lane in lanes(offset, data.len()) {
            let wanted = u32::try_from(lane.dword / 2).unwrap_or(u32::MAX);
            let bits = match group {
                Some((last, bits)) if last == wanted => bits,
                _ => self.domain.pending(wanted),
            };
            group = Some((wanted, bits));
            let high = lane.dword % 2 == 1;
            lane.read(if high { (bits >> 32) as u32 } else { bits as u32 }, data);
        }
    }

    /// Reads a BAR that contains the table or the pending bits. `device` reads bytes of other registers into
    /// a buffer, from an offset into the BAR. One access may cover several of these.
    pub fn read_bar(&self, bar: Bar, offset: u64, data: &mut [u8], mut device: impl FnMut(u64, &mut [u8])) {
        for (owner, bytes) in self.layout().split(bar, offset, data.len()) {
            let part = data.get_mut(bytes).unwrap_or_default();
            match owner {
                Owner::Table(offset) => self.read_table(offset, part),
                Owner::Pba(offset) => self.read_pba(offset, part),
                Owner::Device(offset) => device(offset, part),
            }
        }
    }

    /// Writes a BAR that contains the table or the pending bits. `device` writes the bytes of other
    /// registers.
    pub fn write_bar(&self, bar: Bar, offset: u64, data: &[u8], mut device: impl FnMut(u64, &[u8])) {
        for (owner, bytes) in self.layout().split(bar, offset, data.len()) {
            let part = data.get(bytes).unwrap_or_default();
            match owner {
                Owner::Table(offset) => self.write_table(offset, part),
                Owner::Pba(_) => {}
                Owner::Device(offset) => device(offset, part),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::with_control;

    #[test]
    fn an_access_shows_the_mask_bits_of_entries_whose_control_it_touches() {
        for (offset, len, entries) in [
            (0, 12, 0..0),
            (0, 13, 0..1),
            (12, 4, 0..1),
            (15, 1, 0..1),
            (16, 8, 1..1),
            (24, 8, 1..2),
            (15, 30, 0..3),
            (16 * 2047 + 12, 4, 2047..2048),
        ] {
            assert_eq!(with_control(offset, len), entries, "{len} bytes at {offset}");
        }
        assert!(with_control(u64::MAX, 8).is_empty());
    }
}
