//! Persistent reservations on one device, for one node: executes [`FenceOp`]s, decides nothing.
//!
//! ```text
//!   step.rs      Fence: does one step on the device's paths, reads back what is registered
//!     ↓
//!   path.rs      one path with a thread of its own: one that hangs is passed by
//!     ↓
//!   disk.rs      Unit on a real descriptor: which way a command is sent, what to retry
//!     ↓                         ↓
//!   ioctl.rs  sg.rs          command.rs  sense.rs  readback.rs  nvme.rs  outcome.rs
//!   (the only unsafe code)   (pure: bytes ↔ types, status codes)
//!
//!   prove.rs     whether the target refuses writes, shown with two paths
//!   paths.rs     what a device is, from sysfs: its kind, its disk's name, its paths
//!   error.rs     why a step failed
//! ```
//!
//! Used by the daemon through `ccd-mirror`'s fence lane, and by `ccd-disk fence`. Who may fence whom is `ccd-core`'s.
//!
//! What always holds: the outcome of a step is what is read back after it. Status codes only decide whether to try again
//! or another way, because they differ between kernels and targets and some of them mean "not known". The names
//! "trap 1" to "trap 13" in these files are those of the list in `docs/fencing.md`.
//!
//! Devices without reservations (files, loop, nbd, partitions) are refused with [`FenceError::NotSupported`]; clusters on
//! them run with `lease` fencing, where ballots and waiting protect.

mod command;
mod disk;
mod error;
mod ioctl;
mod nvme;
mod outcome;
mod path;
mod paths;
mod prove;
mod readback;
mod sense;
mod sg;
mod step;

pub use error::FenceError;
pub use paths::{DeviceIdentity, DeviceKind, PathIdentity, identify};
pub use prove::Enforcement;
pub use step::{Fence, InspectedKey, Inspection};

/// Everything that parses what a target sent, on the same bytes: for fuzzing, which must not need a target.
pub fn read_what_a_target_sent(data: &[u8]) {
    if let Ok(head) = readback::head(data) {
        let _ = (
            readback::keys(&head),
            readback::holder(&head),
            readback::full_status(&head),
        );
    }
    let _ = (readback::persists(data), sense::Sense::parse(data));
    let _ = (nvme::parse(data, false), nvme::parse(data, true));
}
