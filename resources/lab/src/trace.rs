//! Reads QEMU's trace of MSI-X Enable and Function Mask: what a device's capability was really set to.
//!
//! The trace shows the *hardware's* side: the lab host's kernel turning MSI-X of a device on and off. So a test can
//! tell whether growing by a vector went through a moment without interrupts.

use std::time::Duration;

/// The trace event of QEMU that is read here.
pub(crate) const EVENT: &str = "msix_write_config";

/// A write to a device's MSI-X Message Control.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MsixState {
    /// When, since the epoch.
    pub time: Duration,
    /// QEMU's name for the kind of device: `nvme`, `ivshmem-doorbell`, `igb`.
    pub device: String,
    /// MSI-X Enable after the write.
    pub enabled: bool,
    /// Function Mask after the write.
    pub masked: bool,
}

/// Reads all such events out of a trace, in order. Other lines are passed over.
pub fn msix_states(trace: &str) -> Vec<MsixState> {
    trace.lines().filter_map(parse_line).collect()
}

/// `msix_write_config dev nvme enabled 1 masked 0`, with `PID@SECONDS.MICROSECONDS:` before it.
fn parse_line(line: &str) -> Option<MsixState> {
    let (stamp, event) = line.split_once(&format!(":{EVENT} "))?;
    let (_, time) = stamp.rsplit_once('@')?;
    let (seconds, micros) = time.split_once('.')?;
    let time = Duration::new(seconds.parse().ok()?, micros.parse::<u32>().ok()?.checked_mul(1000)?);
    let (head, masked) = event.trim().rsplit_once(" masked ")?;
    let (device, enabled) = head.strip_prefix("dev ")?.rsplit_once(" enabled ")?;
    let bit = |text: &str| match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    };
    Some(MsixState { time, device: device.to_owned(), enabled: bit(enabled)?, masked: bit(masked)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_and_noise_is_not() {
        let trace = "2311@1763645171.004512:msix_write_config dev nvme enabled 1 masked 1\n\
                     qemu-system-x86_64: warning: something\n\
                     2311@1763645171.004530:msix_write_config dev nvme enabled 1 masked 0\n\
                     2311@1763645171.1:other_event dev nvme enabled 1 masked 0\n";
        let states = msix_states(trace);
        assert_eq!(states.len(), 2);
        let first = MsixState {
            time: Duration::new(1_763_645_171, 4_512_000),
            device: "nvme".into(),
            enabled: true,
            masked: true,
        };
        assert_eq!(states[0], first);
        assert!(states[1].enabled && !states[1].masked);
    }
}
