//! The fields of the shared `kvm_run` page that kvm-ioctls does not expose.
//!
//! Contains `unsafe`: reads of a page that the kernel writes, with a layout that depends on the exit reason. Values
//! are copied out.

use std::mem::offset_of;

use kvm_bindings::{KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_IO, kvm_run};
use kvm_ioctls::VcpuFd;

/// Maximum number of data words of an internal error.
const INTERNAL_DATA: usize = 16;

/// KVM_EXIT_INTERNAL_ERROR (KVM API 5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InternalError {
    pub(super) suberror: u32,
    pub(super) data: Vec<u64>,
}

/// The page that a vCPU shares with KVM.
pub(super) struct RunPage(*const kvm_run);

impl RunPage {
    /// The page of a vCPU. It must not be used after the vCPU is dropped.
    pub(super) fn of(vcpu: &mut VcpuFd) -> Self {
        Self(vcpu.get_kvm_run())
    }

    /// Reads the field at this offset.
    fn field<T: Copy>(&self, offset: usize) -> T {
        let field = self.0.wrapping_byte_add(offset).cast::<T>();
        // SAFETY: the page is mapped while the vCPU's descriptor is open, and the owner of `self` holds it. The
        // kernel writes the page only in KVM_RUN, on this thread. Callers name the offset and type of a field of
        // plain integers, for which all bytes are valid.
        unsafe { field.read_volatile() }
    }

    fn exit_reason(&self) -> u32 {
        self.field(offset_of!(kvm_run, exit_reason))
    }

    /// Size of one unit of the last port access. A string instruction has many units.
    pub(super) fn port_access_unit(&self) -> usize {
        if self.exit_reason() != KVM_EXIT_IO {
            return 1;
        }
        let size: u8 = self.field(offset_of!(kvm_run, __bindgen_anon_1.io.size));
        usize::from(size).max(1)
    }

    /// The internal error, if it is the last exit's reason.
    pub(super) fn internal_error(&self) -> Option<InternalError> {
        if self.exit_reason() != KVM_EXIT_INTERNAL_ERROR {
            return None;
        }
        let suberror = self.field(offset_of!(kvm_run, __bindgen_anon_1.internal.suberror));
        let count: u32 = self.field(offset_of!(kvm_run, __bindgen_anon_1.internal.ndata));
        let data: [u64; INTERNAL_DATA] = self.field(offset_of!(kvm_run, __bindgen_anon_1.internal.data));
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        Some(InternalError { suberror, data: data.into_iter().take(count).collect() })
    }
}
