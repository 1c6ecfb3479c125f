//! What a driver reads from a table entry.

use crate::fixture::Fixture;

impl Fixture {
    /// A register of a table entry: 0 to 2 the message, 3 Vector Control.
    pub(crate) fn register(&self, vector: u16, register: u64) -> u32 {
        let mut data = [0; 4];
        self.function.read_table(u64::from(vector) * 16 + register * 4, &mut data);
        u32::from_le_bytes(data)
    }
}
