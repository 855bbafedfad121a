//! The replicas of one node, driven side by side: its local copy, the primary and the secondary.
//!
//! ```text
//!   daemon's event loop (one owner, never blocks)
//!        │ submit(ticket, replica, op)          ▲ next_completion(), woken by a callback
//!        ▼                                      │
//!   mirror.rs    Mirror: tickets and answers; late results are dropped here
//!   side.rs      the owner's side of one replica: order and deadlines
//!        │     └─ flight.rs  a small append to a device, and its claim check, through a ring of ccd-disk: no thread
//!        │                                      ▲
//!   lane.rs      the queue between the owner and one replica's thread
//!        │                                      │
//!   worker.rs    the thread of one replica: one operation after the other, checkpoints in steps between them
//!        │
//!   store.rs     what a thread drives: a region of ccd-disk, or a test's device
//!
//!   latency.rs   how long operations took, for monitoring
//!   fence.rs     FenceLane: the thread of one device's fencing steps, with deadlines of their own
//!
//!   scrub.rs     what a background pass over both devices found → what to do about it (pure)
//! ```
//!
//! Both devices are written in lock-step: the owner submits to both before it waits for either, and the ring, or a thread for
//! each, has the two writes in flight together. Nothing here decides anything about configurations: a
//! device that fails or hangs is reported to the protocol, which drops it by a successor configuration.

mod fence;
mod flight;
mod lane;
mod latency;
mod mirror;
mod scrub;
mod side;
mod store;
mod worker;

pub use fence::{FENCE_WAITING_MAX, FenceCompletion, FenceDevice, FenceLane, FenceOpener};
pub use lane::{LongWork, Progress};
pub use latency::{LATENCY_BOUNDS_MICROS, Latencies};
pub use mirror::{Completion, LaneReport, Mirror, WAITING_MAX, Wake};
pub use scrub::{DeviceFinding, Finding, Remedy, ScrubPlan, judge};
pub use side::Counted;
pub use store::{ImageWatch, Store, StoreStep};
