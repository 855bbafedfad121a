//! What the unit gave the daemon and commands must not inherit: its priority for the processor and for disks, its protection
//! from the kernel's search for memory, its number of descriptors. Called by `process.rs`.

use std::fs;

/// Descriptors that a program may have unless it asks for more: what is usual, for programs that use select().
const DESCRIPTORS_USUAL: u64 = 1024;

/// `IOPRIO_WHO_PROCESS` of linux/ioprio.h: a thread, for 0 the calling one.
const IOPRIO_WHO_PROCESS: i32 = 1;

/// `IOPRIO_CLASS_NONE`: as the processor's priority says.
const IOPRIO_NONE: i32 = 0;

/// Makes the calling thread an ordinary one. What it starts from now on inherits that; on Linux, other threads are not touched.
pub fn ordinary_thread() {
    // SAFETY: both take numbers and touch no memory. For setpriority, too, process 0 means the calling thread alone.
    let outcomes = unsafe {
        [
            i64::from(libc::setpriority(libc::PRIO_PROCESS, 0, 0)),
            libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_NONE),
        ]
    };
    if outcomes != [0, 0] {
        tracing::warn!("a synchronization command keeps the daemon's priority");
    }
}

/// The rest, which belongs to a whole process, for a child that has just been started. Fails only if it has ended already.
pub fn ordinary_process(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), "0");
    let Ok((_, hard)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) else {
        return;
    };
    let usual = libc::rlimit {
        rlim_cur: hard.min(DESCRIPTORS_USUAL),
        rlim_max: hard,
    };
    // SAFETY: `usual` lives until the call returns, and nothing is written to.
    let _ = unsafe {
        libc::prlimit(
            pid.cast_signed(),
            libc::RLIMIT_NOFILE,
            &raw const usual,
            std::ptr::null_mut(),
        )
    };
}
