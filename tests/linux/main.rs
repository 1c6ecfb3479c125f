//! Linux guests with passed-through devices, end to end: on a host with dynamic MSI-X, and on one without.
//!
//! What may depend on the host's VFIO is tested on each lab host, and the rest on one. The tests of a host share it, so this binary needs
//! `--test-threads=1`. Ignored tests are long, or need devices of this machine: `LINUX_TESTS_DEVICES="<bdf> <bdf>" ... --ignored this_machine` runs the same tests on its
//! own KVM and VFIO. With `LINUX_TESTS_MONITOR=qemu`, QEMU runs the guests: a test that fails there too is wrong itself.
#![cfg(target_arch = "x86_64")]

mod bars;
mod bus;
mod churn;
mod console;
mod control;
mod disks;
mod ends;
mod entropy;
mod faults;
mod growth;
mod growth_stress;
mod hostile;
mod ims;
mod intx;
mod killed;
mod leaks;
mod lifecycles;
mod masking;
mod mediated;
mod msi;
mod net;
mod own;
mod passed;
mod refusals;
mod self_reset;
mod shapes;
mod sparse;
mod stage;
mod vsock;

/// One test a line. Tests of `everywhere` and `once_and_here` run on this machine too, those of the `once` kinds on the 6.12 host alone.
macro_rules! on_hosts {
    (
        everywhere { $($(#[$attribute:meta])* $module:ident::$test:ident;)* }
        once_and_here { $($(#[$once_attribute:meta])* $once_module:ident::$once_test:ident;)* }
        in_the_lab { $($(#[$lab_attribute:meta])* $lab_module:ident::$lab_test:ident;)* }
        once { $($(#[$one_attribute:meta])* $one_module:ident::$one_test:ident;)* }
    ) => {
        /// VFIO adds single vectors while MSI-X is on.
        mod host_6_12 {
            use crate::stage::{Where, on};
            $($(#[$attribute])* #[test] fn $test() { on(Where::Lab(lab::Series::V6_12), crate::$module::$test); })*
            $($(#[$once_attribute])* #[test] fn $once_test() { on(Where::Lab(lab::Series::V6_12), crate::$once_module::$once_test); })*
            $($(#[$lab_attribute])* #[test] fn $lab_test() { on(Where::Lab(lab::Series::V6_12), crate::$lab_module::$lab_test); })*
            $($(#[$one_attribute])* #[test] fn $one_test() { on(Where::Lab(lab::Series::V6_12), crate::$one_module::$one_test); })*
        }
        /// VFIO says NORESIZE.
        mod host_6_1 {
            use crate::stage::{Where, on};
            $($(#[$attribute])* #[test] fn $test() { on(Where::Lab(lab::Series::V6_1), crate::$module::$test); })*
            $($(#[$lab_attribute])* #[test] fn $lab_test() { on(Where::Lab(lab::Series::V6_1), crate::$lab_module::$lab_test); })*
        }
        /// With the features that this machine's VFIO has.
        mod this_machine {
            use crate::stage::{Where, on};
            $(#[ignore = "wants devices of this machine: make test DEVICE='<bdf> <bdf>'"]
            #[test] fn $test() { on(Where::Own, crate::$module::$test); })*
            $(#[ignore = "wants devices of this machine: make test DEVICE='<bdf> <bdf>'"]
            #[test] fn $once_test() { on(Where::Own, crate::$once_module::$once_test); })*
        }
    };
}

on_hosts! {
    everywhere {
        churn::loses_nothing_through_growth_moves_suspend_and_reset;
        growth::grows_vector_by_vector;
        leaks::unbinding_leaks_nothing;
        masking::a_masked_vector_waits_in_the_pba_with_and_without_a_host_vector;
        mediated::slots_grow_while_one_is_rung_and_no_ring_is_lost;
        growth_stress::loses_nothing_while_others_come_and_go;
        shapes::another_kernel_and_number_of_vcpus;
        sparse::takes_from_the_host_what_the_guest_uses;
        #[ignore = "long: both guest kernels with 1, 2 and 4 vCPUs"]
        shapes::every_kernel_and_number_of_vcpus;
        #[ignore = "long: 100000 rings"]
        growth_stress::loses_nothing_in_a_hundred_thousand_rings;
        #[ignore = "long: 100 boots"]
        killed::a_hundred_killed_vmms_leave_nothing_on_the_host;
    }
    // What they show does not depend on the host's kernel, or they need KVM alone of it.
    once_and_here {
        bus::lspci_is_right_and_stays_so;
        ends::a_reboot_is_a_good_end;
        ends::a_triple_fault_is_a_crash;
        entropy::each_of_its_interrupts_is_counted_once_by_guest_and_vmm;
        growth::a_full_page_of_a_table_is_read_and_a_doorbell_is_rung_without_an_exit;
        killed::a_killed_vmm_leaves_nothing_on_the_host;
        masking::a_vector_rung_without_pause_is_silent_while_masked_and_loses_no_ring;
        mediated::slots_of_two_functions_of_one_device_come_move_and_go;
        #[ignore = "long: 16384 requests"]
        entropy::a_mib_of_entropy_is_counted_alike;
    }
    // Devices with what is known of QEMU's models, not of the silicon.
    in_the_lab {
        faults::loses_nothing_while_the_host_refuses_one_call_in_ten;
        control::turning_msix_off_loses_an_event_and_growing_does_not;
        intx::a_disk_without_msi_is_read_right;
        #[ignore = "long: 100000 interrupts with each irqchip"]
        intx::a_hundred_thousand_interrupts_of_one_line_are_handled;
        #[ignore = "long: ten minutes"]
        lifecycles::ten_minutes_of_resets_moves_and_rebinding_disturb_nobody;
        self_reset::an_entry_that_the_device_has_lost_is_programmed_again_when_the_driver_rewrites_it;
    }
    once {
        bars::accesses_are_as_in_hardware_while_decoding_changes;
        bars::a_device_is_at_its_chosen_address_with_its_rom;
        bars::other_devices_reach_bars_where_the_guest_has_put_them;
        bus::registers_around_a_hidden_capability_are_the_devices;
        disks::data_is_on_the_host_after_a_flush_and_survives_rebinding_under_load;
        ends::a_panic_has_a_status_of_its_own;
        hostile::random_accesses_to_everything_end_in_good_order;
        #[ignore = "long: ten minutes"]
        hostile::ten_minutes_of_random_accesses_disturb_no_other_guest;
        intx::two_devices_share_a_line_and_lose_no_packet;
        intx::a_driver_takes_intx_between_msix_and_msix;
        lifecycles::a_device_that_is_reset_moved_and_rebound_disturbs_nobody;
        msi::each_of_sixteen_messages_reaches_its_own_vector;
        msi::a_controller_with_one_message_reads_a_disk_on_every_cpu;
        ims::slots_come_move_and_go_and_no_ring_is_lost;
        ims::slots_come_and_go_while_one_is_rung;
        ims::thousands_of_slots_are_live_at_once;
        console::a_terminal_is_the_guests_and_has_its_size;
        net::packets_and_a_file_go_both_ways_with_and_without_vhost;
        vsock::streams_go_both_ways_between_a_guest_and_unix_sockets;
        vsock::streams_go_both_ways_between_a_guest_and_virtio_sockets_of_its_host;
    }
}
