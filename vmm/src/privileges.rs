//! Gives up the ways by which the VMM could gain privileges, before it has threads or opens anything, and later each thread's
//! capabilities.
//!
//! Invariant: every thread of the VMM has no_new_privs, no inheritable and no ambient capability, and, where the VMM was started with
//! CAP_SETPCAP, an empty bounding set. Threads inherit this from the main thread. The effective capabilities stay until a thread is
//! confined, because devices are opened with them.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// Keeps the calling thread, and those that it starts, from gaining privileges. A step that the host refuses is logged.
pub fn forbid_gains() {
    let refused = |what: &str, error: Errno| tracing::warn!("the VMM may gain privileges: {what}: {error}");
    let logged = |what: &str, result: Result<(), Errno>| result.unwrap_or_else(|error| refused(what, error));
    logged("setting no_new_privs", set_no_new_privs(true));
    logged("clearing the ambient capabilities", clear_ambient_capability_set());
    match capabilities(None) {
        Ok(sets) => {
            if sets.effective.contains(CapabilitySet::SETPCAP) {
                logged("clearing the bounding set", clear_bounding_set());
            } else {
                tracing::debug!("the bounding set of capabilities stays: that needs CAP_SETPCAP");
            }
            let sets = CapabilitySets { inheritable: CapabilitySet::empty(), ..sets };
            logged("clearing the inheritable capabilities", set_capabilities(None, sets));
        }
        Err(error) => refused("reading the capabilities", error),
    }
}

/// Leaves the calling thread no other capabilities than these, and only those of them that it has.
///
/// # Errors
/// The host refuses.
pub fn keep_only(kept: CapabilitySet) -> Result<(), Errno> {
    let CapabilitySets { effective, permitted, .. } = capabilities(None)?;
    let sets = CapabilitySets {
        effective: effective & kept,
        permitted: permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)
}

fn clear_bounding_set() -> Result<(), Errno> {
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // The kernel does not have this one.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
