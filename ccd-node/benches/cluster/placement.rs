//! Which processor runs what: one for node 0, the others for the other nodes, as on machines of their own; clients and bare
//! programs are where their node is. With fewer processors than nodes it is left to the scheduler.
//!
//! Two processes that wake each other may cost four times as much on two processors as on one. Left alone, the scheduler decides
//! that once for the daemons and once for the bare programs, and the ratio tells of its luck.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::process::Child;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static IS_PLACED: AtomicBool = AtomicBool::new(false);

/// From now on so many nodes are placed, or none; this thread joins node 0.
pub fn begin(nodes: usize) -> nix::Result<()> {
    IS_PLACED.store(processors().len() >= nodes, Ordering::Relaxed);
    join_node(0)
}

/// This thread, and what it starts from now on, runs where this node does.
pub fn join_node(node: usize) -> nix::Result<()> {
    place(Pid::from_raw(0), node)
}

/// To be called before the process has threads.
pub fn place_child(child: &Child, node: usize) -> nix::Result<()> {
    place(Pid::from_raw(child.id().cast_signed()), node)
}

fn place(pid: Pid, node: usize) -> nix::Result<()> {
    let processors = processors();
    let mut set = CpuSet::new();
    if IS_PLACED.load(Ordering::Relaxed) {
        set.set(processors[node])?;
    } else {
        processors.iter().try_for_each(|processor| set.set(*processor))?;
    }
    sched_setaffinity(pid, &set)
}

/// Those that this process might use when it started.
fn processors() -> &'static [usize] {
    static PROCESSORS: OnceLock<Vec<usize>> = OnceLock::new();
    PROCESSORS.get_or_init(|| {
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        (0..CpuSet::count())
            .filter(|processor| allowed.is_set(*processor).unwrap_or(false))
            .collect()
    })
}
