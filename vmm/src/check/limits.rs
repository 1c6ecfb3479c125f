//! Limits of this process that matter to guests with passed-through devices.

use rustix::process::{Resource, getrlimit};

use super::{Finding, Grade};

/// The default size of a guest's memory, which VFIO locks.
const MEMORY: u64 = 512 << 20;
/// Descriptors for a few devices: a vector in use takes one.
const DESCRIPTORS: u64 = 4096;

pub(super) fn findings() -> Vec<Finding> {
    let is_root = rustix::process::geteuid().is_root();
    // Root's memory is not limited (CAP_IPC_LOCK).
    let locked = getrlimit(Resource::Memlock).current.filter(|_| !is_root);
    vec![memory(locked), descriptors(getrlimit(Resource::Nofile).maximum)]
}

fn memory(limit: Option<u64>) -> Finding {
    match limit {
        Some(bytes) if bytes < MEMORY => {
            let detail = format!("{} MiB may be locked: less than a guest's memory", bytes >> 20);
            let cure = "ulimit -l unlimited, or LimitMEMLOCK=infinity";
            Finding::missing("locked-memory", Grade::NoDevices, detail, cure)
        }
        Some(bytes) => Finding::good("locked-memory", format!("{} MiB", bytes >> 20)),
        None => Finding::good("locked-memory", "unlimited"),
    }
}

fn descriptors(limit: Option<u64>) -> Finding {
    match limit {
        Some(count) if count < DESCRIPTORS => {
            let detail = format!("{count} at most: one for each interrupt vector in use");
            Finding::missing("descriptors", Grade::Lesser, detail, "raise the hard limit (ulimit -Hn)")
        }
        Some(count) => Finding::good("descriptors", format!("{count} at most")),
        None => Finding::good("descriptors", "unlimited"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_limits_are_found_with_their_remedy() {
        let small = memory(Some(8 << 20));
        assert!(small.grade == Grade::NoDevices && small.remedy.is_some());
        assert!([None, Some(1 << 30)].into_iter().all(|limit| memory(limit).grade == Grade::Good));
        assert_eq!(descriptors(Some(1024)).grade, Grade::Lesser);
        assert!([None, Some(1 << 20)].into_iter().all(|limit| descriptors(limit).grade == Grade::Good));
    }
}
