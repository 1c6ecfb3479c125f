//! Linux guests with passed-through devices, end to end: on a host with dynamic MSI-X, and on one without.
//!
//! Every behaviour is tested once on each host; the tests of a host share one lab host, so this binary wants
//! `--test-threads=1`. What is `ignored` belongs to the long version: `--include-ignored`. With
//! `LINUX_TESTS_MONITOR=qemu`, QEMU runs the guests: what fails then as well is the test's mistake, not ours.

mod bus;
mod control;
mod ends;
mod entropy;
mod growth;
mod leaks;
mod pounding;
mod refusals;
mod shapes;
mod sparse;
mod stage;

macro_rules! on_both_hosts {
    ($($(#[$attribute:meta])* $module:ident::$test:ident;)*) => {
        /// VFIO adds single vectors while MSI-X is on.
        mod host_6_12 {
            $($(#[$attribute])* #[test] fn $test() { crate::stage::on(lab::Series::V6_12, crate::$module::$test); })*
        }
        /// VFIO says NORESIZE.
        mod host_6_1 {
            $($(#[$attribute])* #[test] fn $test() { crate::stage::on(lab::Series::V6_1, crate::$module::$test); })*
        }
    };
}

on_both_hosts! {
    bus::lspci_is_right_and_stays_so;
    control::turning_msix_off_loses_an_event_and_growing_does_not;
    entropy::each_of_its_interrupts_is_counted_once_by_guest_and_vmm;
    growth::grows_vector_by_vector;
    leaks::unbinding_leaks_nothing;
    pounding::loses_nothing_while_others_come_and_go;
    shapes::another_kernel_and_number_of_vcpus;
    sparse::takes_from_the_host_what_the_guest_uses;
    #[ignore = "long: both guest kernels with 1, 2 and 4 vCPUs"]
    shapes::every_kernel_and_number_of_vcpus;
    #[ignore = "long: 16384 requests"]
    entropy::a_mib_of_entropy_is_counted_alike;
    #[ignore = "long: 100000 rings"]
    pounding::loses_nothing_in_a_hundred_thousand_rings;
}
