//! What a guest, a device and a host may do to a function: one vocabulary for property tests, fuzzing and
//! regression tests.

/// One step. Vectors are taken modulo their number, so that every value means something.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Op {
    /// The guest fills a vector's message in: its own APIC, and this version of it. MSI has one for all.
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
    /// The guest writes an IMS slot's mask bit, and its PASID, where there is a place for one.
    Pasid {
        /// The slot.
        vector: u16,
        /// The bit.
        masked: bool,
        /// The PASID; 0 for none.
        pasid: u8,
    },
    /// The guest clears a vector's message.
    Clear(u16),
    /// The guest does something with an IMS slot in its memory. Writing one changes nothing by itself.
    Slot(SlotOp),
    /// The guest writes Message Control: bit 1 for Enable, and of MSI-X bit 0 for Function Mask, of MSI bits 2 to 4
    /// for Multiple Message Enable.
    Control(u8),
    /// Any write to the table, if there is one, or to IMS slots.
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
    /// The guest points a vector at an entry of its remapping table; of MSI all at it, or at as many from there on.
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
    /// The guest writes Bus Master Enable.
    BusMaster(bool),
    /// The embedder suspends the function, and keeps its state.
    Suspend,
    /// The embedder resumes it.
    Resume,
    /// The function goes to another VM: it is suspended, its state is restored into a function after power-on there,
    /// and the device moves with what it has pending itself. It stays suspended.
    Restore,
    /// The function is unplugged in whatever state it is, and another plugged in, after power-on.
    Unplug,
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
    /// The embedder begins to request host vectors on a thread.
    Growth,
    /// That thread requests some.
    Grow,
    /// A mediator has an interrupt for a vector that the guest uses.
    Latch(u16),
    /// The device raises every vector during the next host calls where a bit is set, lowest first.
    Interrupt {
        /// As the call begins, before it has done anything.
        early: u8,
        /// As the call ends, when it has done its work.
        late: u8,
    },
}

/// What a driver does with slots in its memory. Slots are taken modulo their number.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum SlotOp {
    /// It says that a slot is at the `at`-th multiple of 16.
    SetAddress {
        /// The slot.
        slot: u16,
        /// Modulo some more than there is memory.
        at: u8,
    },
    /// It says that a slot is at any address at all.
    SetAnyAddress {
        /// The slot.
        slot: u16,
        /// Where it is to be.
        address: u64,
    },
    /// It says that a slot is nowhere.
    ClearAddress(u16),
    /// It rings.
    Ring(u16),
    /// Half of its memory is there, or all of it.
    Plug {
        /// All of it.
        all: bool,
    },
}
