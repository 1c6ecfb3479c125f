//! What a guest, a device and a host may do to a function: one vocabulary for property tests, fuzzing and
//! regression tests.

use crate::message::MsiMessage;
use crate::remap::handle;

/// One step. Vectors are taken modulo the table's size, so that every value means something.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Op {
    /// The guest fills a vector's message in: its own APIC, and this version of it.
    Message {
        /// The vector.
        vector: u16,
        /// Which of several messages of the vector's own.
        version: u8,
    },
    /// The guest writes a vector's mask bit.
    Mask {
        /// The vector.
        vector: u16,
        /// The bit.
        masked: bool,
    },
    /// The guest clears a vector's message.
    Clear(u16),
    /// The guest writes Message Control: bit 0 for Function Mask, bit 1 for MSI-X Enable.
    Control(u8),
    /// Any write to the table.
    WriteTable {
        /// From its first entry.
        offset: u16,
        /// What is written, 0 to 8 bytes of it.
        data: [u8; 8],
        /// How many bytes.
        len: u8,
    },
    /// Any write to the capability.
    WriteConfig {
        /// From its ID.
        offset: u8,
        /// What is written, 0 to 8 bytes of it.
        data: [u8; 8],
        /// How many bytes.
        len: u8,
    },
    /// The guest points a vector at an entry of its remapping table.
    Handle {
        /// The vector.
        vector: u16,
        /// The entry.
        entry: u8,
    },
    /// The guest writes an entry of its remapping table: a message, or 0 for none.
    Entry {
        /// The entry.
        entry: u8,
        /// Which of several messages.
        version: u8,
    },
    /// The guest says that so many entries have changed; 0 for all.
    Invalidate {
        /// The first.
        entry: u8,
        /// How many.
        count: u8,
    },
    /// The device raises a vector.
    Raise(u16),
    /// The guest resets the function.
    Reset,
    /// The embedder sets the VM's budget: so many host vectors, and 255 for any number.
    VmBudget(u8),
    /// The same for the device's.
    DeviceBudget(u8),
    /// The embedder suspends the function, and keeps its state.
    Suspend,
    /// The embedder resumes it.
    Resume,
    /// The function goes to another VM: it is suspended, its state is restored into a function after power-on there,
    /// and the device moves with what it has pending itself. It stays suspended.
    Restore,
    /// The next host calls fail where a bit is set, lowest first.
    Fail(u32),
    /// The VM has room for so many messages.
    Room(u8),
    /// The embedder tries again what the host refused.
    Retry,
    /// The same, after everything that lingers has lingered long enough.
    RetryLate,
    /// The embedder lets freed vectors linger, or not.
    Linger(bool),
    /// The embedder begins to watch for vectors that userspace delivers.
    Watch,
    /// The embedder's event thread delivers what waits for them.
    Deliver,
}

/// A guest's write to an MSI-X function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// To the table, from its first entry.
    Table(usize, Vec<u8>),
    /// To the capability, from its ID.
    Config(usize, Vec<u8>),
}

impl Op {
    /// The guest's write to a function of so many vectors, where the step is one.
    pub(super) fn write(&self, vectors: u16) -> Option<Write> {
        let entry = |vector: u16| usize::from(vector % vectors) * 16;
        Some(match *self {
            Self::Message { vector, version } => {
                let vector = vector % vectors;
                let address = 0xfee0_0000 | u32::from(vector % 256) << 12;
                // Above 256 vectors, those of one APIC differ in the trigger bit and the vector's parity.
                let data = 0x20 + u32::from(version % 100) * 2 + u32::from(vector / 256 % 2);
                let data = data | u32::from(vector / 512) << 14;
                Write::Table(entry(vector), [address.to_le_bytes(), [0; 4], data.to_le_bytes()].concat())
            }
            Self::Mask { vector, masked } => Write::Table(entry(vector) + 12, vec![masked.into(), 0, 0, 0]),
            Self::Clear(vector) => Write::Table(entry(vector), vec![0; 12]),
            Self::Control(bits) => Write::Config(2, (u16::from(bits & 3) << 14).to_le_bytes().to_vec()),
            Self::WriteTable { offset, data, len } => {
                Write::Table(offset.into(), data[..usize::from(len % 9)].to_vec())
            }
            Self::WriteConfig { offset, data, len } => {
                Write::Config(usize::from(offset % 16), data[..usize::from(len % 9)].to_vec())
            }
            Self::Handle { vector, entry: index } => {
                let MsiMessage { address, data } = handle::message(index.into());
                Write::Table(entry(vector), [address.to_le_bytes().as_slice(), &data.to_le_bytes()].concat())
            }
            _ => return None,
        })
    }
}
