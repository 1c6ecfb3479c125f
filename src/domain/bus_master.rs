//! Bus Master Enable of a function's Command register: whether it may send messages at all (PCIe r6 §7.5.1.1.3).
//!
//! The embedder owns configuration space, so it passes the bit on. A passed-through device has the bit itself.

/// Whether the bus lets a function issue requests, including its interrupts' messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BusMaster {
    /// The function issues no requests: interrupts wait.
    Disabled,
    /// The function may issue requests.
    #[default]
    Enabled,
}

impl BusMaster {
    /// Bit 2 of a Command register.
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
