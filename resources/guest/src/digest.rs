//! Names for cached files, made of what went into them.

use sha2::{Digest, Sha256};

/// The SHA-256 digest of some bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
