//! The operations of a guest, a device and a host on a function. Property tests, fuzz targets and regression
//! tests share them.

/// One step. Vectors are taken modulo their number, so every value is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Op {
    /// The guest writes a vector's message, to an APIC of the vector's own. MSI has one message for all
    /// vectors.
    Message {
        /// The vector.
        vector: u16,
        /// The index of one of several messages of the vector.
        version: u8,
    },
    /// The guest writes a vector's mask bit.
    Mask {
        /// The vector.
        vector: u16,
        /// The new mask bit.
        masked: bool,
    },
    /// The guest writes an IMS slot's mask bit and PASID, if the slot has them.
    Pasid {
        /// The slot.
        vector: u16,
        /// The new mask bit.
        masked: bool,
        /// The PASID; 0 for none.
        pasid: u8,
    },
    /// The guest clears a vector's message.
    Clear(u16),
    /// A driver's operation on an IMS slot in guest memory. Writing the slot alone changes nothing.
    Slot(SlotOp),
    /// The guest writes Message Control: bit 1 is Enable, bit 0 is Function Mask (MSI-X), and bits 2 to 4 are
    /// Multiple Message Enable (MSI).
    Control(u8),
    /// The guest writes any bytes of the table, or of the IMS slots.
    WriteTable {
        /// In bytes from the first entry.
        offset: u16,
        /// The data, of which `len` modulo 9 bytes are written.
        data: [u8; 8],
        /// The number of bytes, modulo 9.
        len: u8,
    },
    /// The guest writes any bytes of the capability.
    WriteConfig {
        /// In bytes from the capability's ID, modulo 32.
        offset: u8,
        /// The data, of which `len` modulo 9 bytes are written.
        data: [u8; 8],
        /// The number of bytes, modulo 9.
        len: u8,
    },
    /// The guest writes a message that names an entry of its remapping table. All vectors of MSI name this
    /// entry, or consecutive entries from it on.
    Handle {
        /// The vector.
        vector: u16,
        /// The entry.
        entry: u8,
    },
    /// The guest writes an entry of its remapping table.
    Entry {
        /// The entry.
        entry: u8,
        /// The index of one of several messages; 0 for not present.
        version: u8,
    },
    /// The guest invalidates entries of its remapping table.
    Invalidate {
        /// The first entry.
        entry: u8,
        /// The number of entries; 0 for all.
        count: u8,
    },
    /// The device raises a vector.
    Raise(u16),
    /// The guest resets the function.
    Reset,
    /// The embedder sets the VM's limit of host vectors; 255 for none.
    VmBudget(u8),
    /// The embedder sets the device's limit of host vectors; 255 for none.
    DeviceBudget(u8),
    /// The guest writes Bus Master Enable.
    BusMaster(bool),
    /// The embedder suspends the function.
    Suspend,
    /// The embedder resumes it.
    Resume,
    /// The function moves to another VM. It is suspended, and its state is restored into a function after
    /// power-on. The device moves with its own pending bits. The function stays suspended.
    Restore,
    /// The function is unplugged in its present state, and another one is plugged in after power-on.
    Unplug,
    /// Each set bit makes the corresponding next host call fail, the lowest bit first.
    Fail(u32),
    /// The embedder sets the number of messages that the VM has room for.
    Room(u8),
    /// The embedder calls `retry`.
    Retry,
    /// The embedder calls `retry_at` with a time after every release delay.
    RetryLate,
    /// The embedder sets a long release delay, or none.
    ReleaseDelay(bool),
    /// The embedder begins to watch the eventfd of relayed vectors.
    WatchRelayed,
    /// The embedder delivers the interrupts of relayed vectors.
    DeliverRelayed,
    /// The embedder begins to watch the eventfd of deferred host vectors.
    WatchDeferred,
    /// The embedder binds some deferred host vectors.
    BindDeferred,
    /// A mediator latches an interrupt of a vector that the guest uses.
    Latch(u16),
    /// The device raises every vector during the next host calls whose bit is set, the lowest bit first.
    Interrupt {
        /// When the call begins, before it has done anything.
        early: u8,
        /// When the call ends, after it has done its work.
        late: u8,
    },
}

/// A driver's operation on slots in guest memory. Slots are taken modulo their number.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum SlotOp {
    /// It sets the address of a slot to a multiple of 16.
    SetAddress {
        /// The slot.
        slot: u16,
        /// The multiple, modulo a few more than the memory has.
        at: u8,
    },
    /// It sets the address of a slot to any value.
    SetAnyAddress {
        /// The slot.
        slot: u16,
        /// The address.
        address: u64,
    },
    /// It clears the address of a slot.
    ClearAddress(u16),
    /// It rings the doorbell of a slot.
    Ring(u16),
    /// The VM plugs or unplugs the second half of guest memory.
    Plug {
        /// Whether all memory is plugged.
        all: bool,
    },
}
