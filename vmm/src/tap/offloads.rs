//! What the reader of a tap accepts besides complete packets (TUNSETOFFLOAD).

use libc::{TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_UFO, TUN_F_USO4, TUN_F_USO6};

/// A set of offloads, as flags of TUNSETOFFLOAD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads(u32);

impl Offloads {
    /// Only complete packets with checksums.
    pub const NONE: Self = Self(0);
    /// Packets without a checksum.
    pub const CHECKSUM: Self = Self(TUN_F_CSUM);
    /// TCP segments over IPv4 that are larger than the MTU.
    pub const TSO4: Self = Self(TUN_F_TSO4);
    /// The same over IPv6.
    pub const TSO6: Self = Self(TUN_F_TSO6);
    /// Such segments with ECN.
    pub const TSO_ECN: Self = Self(TUN_F_TSO_ECN);
    /// UDP datagrams that are larger than the MTU, to be fragmented.
    pub const UFO: Self = Self(TUN_F_UFO);
    /// Several UDP datagrams in one, over IPv4 and IPv6. Linux 6.2 and later.
    pub const USO: Self = Self(TUN_F_USO4 | TUN_F_USO6);
    /// Offloads of every kernel that has vnet headers.
    pub(super) const BASE: Self = Self(TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO);

    /// The flags.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `other` are in the set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The offloads of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Without those that the kernel refuses: all others need checksums, and ECN needs TSO.
    #[must_use]
    pub const fn consistent(self) -> Self {
        match (self.contains(Self::CHECKSUM), self.0 & (TUN_F_TSO4 | TUN_F_TSO6)) {
            (false, _) => Self::NONE,
            (true, 0) => Self(self.0 & !TUN_F_TSO_ECN),
            (true, _) => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offload_needs_checksums_and_ecn_needs_segments() {
        assert_eq!(Offloads::TSO4.union(Offloads::USO).consistent(), Offloads::NONE);
        let checksums_and_ecn = Offloads::CHECKSUM.union(Offloads::TSO_ECN);
        assert_eq!(checksums_and_ecn.consistent(), Offloads::CHECKSUM);
        let with_tso = checksums_and_ecn.union(Offloads::TSO6);
        assert_eq!(with_tso.consistent(), with_tso);
    }
}
