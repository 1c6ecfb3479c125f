//! Names of system calls, and the calls that code of every thread makes: the allocator, locks, time, logs, panics and the thread's end.

/// Declares a list of numbers of system calls.
macro_rules! numbers {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Declares numbers of system calls with their names.
macro_rules! names {
    ($($name:ident)*) => { &[$((libc::$name, stringify!($name))),*] };
}

pub(super) use numbers;

/// Calls of every thread.
pub(super) const RUNTIME: &[i64] = numbers!(
    SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_close SYS_lseek SYS_fstat SYS_newfstatat SYS_statx
    SYS_poll SYS_ppoll SYS_epoll_wait SYS_epoll_pwait SYS_epoll_pwait2 SYS_epoll_ctl SYS_epoll_create1 SYS_eventfd2
    SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime SYS_futex SYS_munmap SYS_mremap SYS_brk SYS_membarrier
    SYS_sigaltstack SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_restart_syscall SYS_exit SYS_exit_group SYS_rseq
    SYS_set_robust_list SYS_getrandom SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday SYS_time
    SYS_sched_yield SYS_sched_getaffinity SYS_getcpu SYS_getpid SYS_gettid SYS_uname SYS_sysinfo
);

/// Calls that fail with EACCES in every thread but the main one, as if the file were not there: the C library asks for
/// /proc/sys/vm/overcommit_memory when it gives memory back, and a panic's backtrace for the program's file.
pub(super) const REFUSED: &[i64] =
    numbers!(SYS_open SYS_openat SYS_access SYS_faccessat SYS_readlink SYS_readlinkat SYS_stat SYS_getcwd);

/// Names for the message about a forbidden call. Calls without one have their number.
pub(super) const NAMES: &[(i64, &str)] = names!(
    SYS_open SYS_openat SYS_openat2 SYS_creat SYS_rename SYS_renameat SYS_renameat2 SYS_unlink SYS_unlinkat SYS_mkdir SYS_rmdir
    SYS_link SYS_symlink SYS_chmod SYS_fchmod SYS_chown SYS_fchown SYS_truncate SYS_ftruncate SYS_access SYS_readlink SYS_getdents64
    SYS_ioctl SYS_mmap SYS_mprotect SYS_pkey_mprotect SYS_madvise SYS_fcntl SYS_prctl SYS_tgkill SYS_tkill SYS_kill SYS_memfd_create
    SYS_socket SYS_socketpair SYS_bind SYS_listen SYS_accept SYS_accept4 SYS_connect SYS_sendto SYS_sendmsg SYS_sendmmsg SYS_recvfrom
    SYS_recvmsg SYS_shutdown SYS_getsockopt SYS_setsockopt SYS_getsockname SYS_clone SYS_clone3 SYS_fork SYS_vfork SYS_execve
    SYS_execveat SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_mount SYS_umount2 SYS_unshare SYS_setns SYS_bpf
    SYS_setuid SYS_setgid SYS_capset SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register SYS_preadv SYS_preadv2 SYS_pwritev
    SYS_pwritev2 SYS_fsync SYS_fdatasync SYS_fallocate SYS_copy_file_range SYS_splice SYS_dup SYS_dup2 SYS_dup3 SYS_pipe2 SYS_wait4
    SYS_getppid SYS_getrlimit SYS_setrlimit SYS_prlimit64 SYS_sched_setscheduler SYS_sched_setaffinity SYS_setpriority SYS_mlock
    SYS_getuid SYS_userfaultfd SYS_perf_event_open SYS_signalfd4 SYS_seccomp SYS_init_module SYS_finit_module SYS_reboot
);

/// The name of a call, without `SYS_`.
pub(super) fn name(number: i64) -> Option<&'static str> {
    NAMES.iter().find(|(other, _)| *other == number).and_then(|(_, name)| name.get("SYS_".len()..))
}
