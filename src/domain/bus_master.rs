//! Bus Master Enable of a function's Command register: whether it may send messages at all (PCIe r6 §7.5.1.1.3).
//!
//! Configuration space is the embedder's, so it says. Of a passed-through device the host's own bit does it.

/// Whether the bus lets a function issue requests, of which its interrupts' messages are some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BusMaster {
    /// It may not: interrupts wait.
    Disabled,
    /// It may.
    #[default]
    Enabled,
}

impl BusMaster {
    /// As a Command register has it, in bit 2.
    pub fn of_command(command: u16) -> Self {
        if command & 1 << 2 == 0 { Self::Disabled } else { Self::Enabled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bus_master_enable_is_bit_2_of_the_command_register() {
        assert_eq!(BusMaster::of_command(0x0004), BusMaster::Enabled);
        assert_eq!(BusMaster::of_command(0xfffb), BusMaster::Disabled);
    }
}
