//! What lab host is wanted.

use std::time::Duration;

use crate::device::Device;
use crate::kernel::Series;
use crate::trace;

/// A lab host to boot: two CPUs for commands and 3 GiB, unless said otherwise.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) series: Series,
    pub(crate) cpus: u8,
    pub(crate) memory_mib: u32,
    pub(crate) devices: Vec<Device>,
    pub(crate) trace: Vec<String>,
    pub(crate) qemu_arguments: Vec<String>,
    pub(crate) tries: u32,
    pub(crate) patience: Duration,
}

impl Config {
    /// A lab host on this kernel, without devices.
    pub fn new(series: Series) -> Self {
        Self {
            series,
            cpus: 2,
            memory_mib: 3072,
            devices: Vec::new(),
            trace: Vec::new(),
            qemu_arguments: Vec::new(),
            tries: 5,
            patience: Duration::from_secs(60),
        }
    }

    /// Adds a device. The first is number 0.
    pub fn device(mut self, device: Device) -> Self {
        self.devices.push(device);
        self
    }

    /// Sets the number of CPUs that run commands. The first of the machine is one more, and runs none.
    pub fn cpus(mut self, cpus: u8) -> Self {
        self.cpus = cpus;
        self
    }

    /// Sets the size of memory.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Records every change of a device's MSI-X Enable, for [`Lab::msix_trace`](super::Lab::msix_trace).
    pub fn trace_msix(self) -> Self {
        self.trace(trace::EVENT)
    }

    /// Records a trace event of QEMU's, for [`Lab::trace`](super::Lab::trace).
    pub fn trace(mut self, event: impl Into<String>) -> Self {
        self.trace.push(event.into());
        self
    }

    /// Adds words to QEMU's command line.
    pub fn qemu_arguments<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.qemu_arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Starts again, up to so often in all, when the lab host is not up and its console has been silent for so long.
    pub fn tries(mut self, tries: u32, patience: Duration) -> Self {
        (self.tries, self.patience) = (tries, patience);
        self
    }
}
