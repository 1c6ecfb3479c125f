//! The lab host: an emulated Linux host with KVM and VFIO, for machines that have neither.
