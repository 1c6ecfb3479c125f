//! The features of a device's vectors.
//!
//! A function's parents form a chain: the VM's router, a remapping stage, the device, a pool. The function
//! has the intersection of their features. It is checked before a guest sees the capability.

/// When a host allocates a device's interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
pub enum Growth {
    /// All are allocated when the window opens. No vector can be bound later.
    Fixed,
    /// All are reserved when the window opens, and each can be bound later (VFIO with VFIO_IRQ_INFO_NORESIZE,
    /// and MSI).
    Reserved,
    /// Each is allocated when it is bound (VFIO since Linux 6.5).
    Dynamic,
}

/// The features of a device's vectors. Each parent between a device and a guest limits them: see
/// [`Capabilities::intersection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Capabilities {
    /// The number of vectors, which count from 0.
    pub vectors: u32,
    /// When the host allocates them.
    pub growth: Growth,
    /// Each vector can be allocated without the others (MSI-X, IMS). MSI's vectors are one block.
    pub independent: bool,
    /// Blocks of vectors can be allocated all or nothing, for multi-message MSI (PCIe r6 §6.1.4).
    pub multi_message: bool,
    /// Messages may come from a store of the device's own (IMS), not only from MSI and MSI-X.
    pub ims: bool,
    /// The device stores [cookies](super::Cookie) beside messages.
    pub cookies: bool,
}

/// The first feature that a capability needs and that a parent of the function lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// The capability has more vectors than the parent.
    #[error("the capability needs {needed} vectors, but there are only {vectors}")]
    Vectors {
        /// How many vectors the capability has.
        needed: u32,
        /// How many vectors the parent has.
        vectors: u32,
    },
    /// Vectors are bound after the window was opened.
    #[error("vectors cannot be bound after interrupts are enabled")]
    Growth,
    /// Vectors are bound one by one, as for MSI-X.
    #[error("vectors cannot be allocated one by one")]
    Independent,
    /// Several messages form one block, as for MSI.
    #[error("multi-message blocks are not supported")]
    MultiMessage,
    /// Messages come from a store of the device's own.
    #[error("interrupt message stores are not supported")]
    Ims,
    /// Vectors carry cookies.
    #[error("cookies are not supported")]
    Cookies,
}

impl Capabilities {
    /// All features, for a parent that sets no limit of its own.
    pub const UNLIMITED: Self = Self {
        vectors: u32::MAX,
        growth: Growth::Dynamic,
        independent: true,
        multi_message: true,
        ims: true,
        cookies: true,
    };

    /// Checks that these features include `needed`.
    ///
    /// # Errors
    /// The first feature that is missing.
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

    /// The features that both have.
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
    fn a_chain_has_the_features_that_each_of_its_parents_has() {
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
