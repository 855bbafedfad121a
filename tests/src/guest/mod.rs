//! Real daemons in virtual machines, on disks with real reservations: what the guest tests use.
//!
//! ```text
//!   site        Site: machines and the two nodes on them, kept for the next scenario if nothing failed
//!   pair        one guest with both nodes        servers     a guest for each node, and one with the disks
//!     ↓
//!   node        GuestNode: a daemon in a guest   load        what writes there, and what was promised
//!     ↓
//!   machine     Machine: one guest; paused, reset, cut off, switched off
//!     ↓
//!   image       the file system that guests boot with      qmp       QEMU's monitor
//!     ↓                                                    agent     running things in a guest
//!   root        unpacked packages, programs of this build  wire      what test and agent say
//!   cpio, kernel_modules                                   keeper    guests end with the test
//! ```
//!
//! What runs inside is in `tests/guest`: `agent/` (the program `ccd-guest`) and `inside/` (scripts).

pub mod agent;
pub mod cpio;
pub mod image;
pub mod keeper;
pub mod kernel_modules;
pub mod load;
pub mod machine;
pub mod node;
pub mod pair;
pub mod qmp;
pub mod root;
pub mod servers;
pub mod site;
pub mod wire;

pub use image::Image;
pub use load::Load;
pub use machine::{Card, Machine, Recipe};
pub use node::GuestNode;
pub use pair::{Pair, Storage};
pub use servers::Servers;
pub use site::{Fencing, Shared, Site};
