//! The priority of threads and processes that must not have the daemon's: the unit gives the daemon a high one for the processor and
//! for disks, protection from the kernel's search for memory, and a number of descriptors. Called by `commands/process.rs` for what
//! it starts, and by `copy_watch.rs`.

use std::fs;

/// Descriptors that a program may have unless it asks for more: what is usual, for programs that use select().
const DESCRIPTORS_USUAL: u64 = 1024;

/// `IOPRIO_WHO_PROCESS` of linux/ioprio.h: a thread, for 0 the calling one.
const IOPRIO_WHO_PROCESS: i32 = 1;

/// `IOPRIO_CLASS_NONE`: as the processor's priority says.
const IOPRIO_NONE: i32 = 0;

/// `IOPRIO_CLASS_BE` with the last of its levels. `IOPRIO_CLASS_IDLE` could wait for ever on a busy disk, and a read that waits holds
/// a lock of the file that a write to it may need.
const IOPRIO_BEST_EFFORT_LAST: i32 = 2 << 13 | 7;

/// Makes the calling thread an ordinary one. What it starts from now on inherits that; on Linux, other threads are not touched.
pub fn ordinary_thread() {
    if !set_thread(IOPRIO_NONE) {
        tracing::warn!("a synchronization command keeps the daemon's priority");
    }
}

/// Makes the calling thread an ordinary one whose transfers come after all others of the class that is usual.
pub fn low_priority_thread() {
    if !set_thread(IOPRIO_BEST_EFFORT_LAST) {
        tracing::debug!("a thread in the background keeps the daemon's priority");
    }
}

fn set_thread(io_priority: i32) -> bool {
    // SAFETY: both take numbers and touch no memory. For setpriority, too, process 0 means the calling thread alone.
    let outcomes = unsafe {
        [
            i64::from(libc::setpriority(libc::PRIO_PROCESS, 0, 0)),
            libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, io_priority),
        ]
    };
    outcomes == [0, 0]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_in_the_background_has_the_last_priority_for_disks_and_others_keep_theirs() {
        let io_priority = || {
            // SAFETY: it takes numbers and touches no memory; 0 is the calling thread.
            unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) }
        };
        let before = io_priority();
        let background = std::thread::spawn(move || {
            low_priority_thread();
            io_priority()
        });
        assert_eq!(background.join().unwrap(), i64::from(IOPRIO_BEST_EFFORT_LAST));
        assert_eq!(io_priority(), before);
    }
}
