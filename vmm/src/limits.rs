//! The process's own limits, raised as far as it may.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets the process open as many files as its hard limit allows: each interrupt vector that a guest uses is one, and
/// shells set a soft limit of 1024. Where that fails, vectors beyond the limit are held, and the report says why.
pub fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!("the limit on open files stays at {current:?}: {error}");
    }
}
