//! What a device's vectors can do, as far as those who share or stack them need to know.
//!
//! Parents form a chain: the VM's router, a remapping stage, the device, a pool. What a function can have is the
//! intersection of what each of them can do, and a capability is looked at before a guest sees it.

/// How a host gives a device its interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
pub enum Growth {
    /// Only what is bound when the window opens: nothing is added later.
    Fixed,
    /// For the whole window when it opens; vectors take their eventfds one by one all the same (a VFIO host with
    /// VFIO_IRQ_INFO_NORESIZE, and MSI).
    Reserved,
    /// Vector by vector, while others are in use (VFIO since Linux 6.5).
    Dynamic,
}

/// What a device's vectors can do. Who stands between a device and a guest can do what everything below it can:
/// see [`Capabilities::intersection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Capabilities {
    /// There are vectors 0 to `vectors` - 1.
    pub vectors: u32,
    /// How they come from the host.
    pub growth: Growth,
    /// Each vector can be had without the others (MSI-X, IMS); MSI's are one block.
    pub independent: bool,
    /// Blocks of vectors are had all or nothing, as the messages of multi-message MSI are (PCIe r6 §6.1.4).
    pub multi_message: bool,
    /// Messages may come from a store of the device's own (IMS), and not from MSI's or MSI-X's alone.
    pub ims: bool,
    /// There is a place for [cookies](super::Cookie) beside messages.
    pub cookies: bool,
}

/// Why a function cannot have a capability: some parent of it cannot do what that needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// It has more vectors.
    #[error("{needed} vectors are needed, and there are {vectors}")]
    Vectors {
        /// How many it has.
        needed: u32,
        /// How many there are.
        vectors: u32,
    },
    /// Its vectors are requested after it was turned on.
    #[error("vectors cannot be requested once interrupts are on")]
    Growth,
    /// Its vectors are independent of each other, as MSI-X's are.
    #[error("no vector can be had without the others")]
    Independent,
    /// It has several messages that belong together, as MSI's do.
    #[error("several vectors cannot be had all or nothing")]
    MultiMessage,
    /// Its messages come from a store of the device's own.
    #[error("messages of an interrupt message store are not carried")]
    Ims,
    /// Its vectors carry cookies.
    #[error("vectors cannot carry cookies")]
    Cookies,
}

impl Capabilities {
    /// Everything: what a link of the chain can do that sets no limit of its own.
    pub const UNLIMITED: Self = Self {
        vectors: u32::MAX,
        growth: Growth::Dynamic,
        independent: true,
        multi_message: true,
        ims: true,
        cookies: true,
    };

    /// Whether this is enough for who needs `needed`.
    ///
    /// # Errors
    /// The first thing that is not.
    pub fn check(self, needed: Self) -> Result<(), Unsupported> {
        if self.vectors < needed.vectors {
            return Err(Unsupported::Vectors { needed: needed.vectors, vectors: self.vectors });
        }
        if self.growth < needed.growth {
            return Err(Unsupported::Growth);
        }
        if needed.independent && !self.independent {
            return Err(Unsupported::Independent);
        }
        if needed.multi_message && !self.multi_message {
            return Err(Unsupported::MultiMessage);
        }
        if needed.ims && !self.ims {
            return Err(Unsupported::Ims);
        }
        if needed.cookies && !self.cookies {
            return Err(Unsupported::Cookies);
        }
        Ok(())
    }

    /// What both can do.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self {
            vectors: self.vectors.min(other.vectors),
            growth: self.growth.min(other.growth),
            independent: self.independent && other.independent,
            multi_message: self.multi_message && other.multi_message,
            ims: self.ims && other.ims,
            cookies: self.cookies && other.cookies,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_can_do_what_each_of_its_links_can() {
        let msix = Capabilities { vectors: 64, multi_message: false, ..Capabilities::UNLIMITED };
        let msi = Capabilities {
            vectors: 32,
            growth: Growth::Reserved,
            independent: false,
            multi_message: true,
            ims: false,
            cookies: false,
        };
        let both = Capabilities { multi_message: false, ..msi };
        assert_eq!(msix.intersection(msi), both);
        assert_eq!(msi.intersection(msix), both);
        assert_eq!(msix.intersection(msix), msix);
    }
}
