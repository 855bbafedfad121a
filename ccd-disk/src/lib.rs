//! A region on a block device or file: where one replica of the database lives.
//!
//! ```text
//!   cli         the program ccd-disk
//!   resync      one device of a pair brought to what its twin holds, with no daemon
//!   driver      ReplicaDriver: one replica that can be opened again; executes ccd-core's ReplicaOp
//!     ↓
//!   region      open, recovery, own area (append, checkpoint, image), survey, mkfs
//!     ↓                      ↓
//!   format (pure:            device (trait Blocks: RawDevice, MemoryDevice;
//!   bytes ↔ checked types)   unsafe code only there and in fencing)
//! ```
//!
//! `fencing` executes reservations on SCSI disks, multipath maps and NVMe namespaces; it stands beside the region, on the
//! same device.
//! `docs/format.md` draws the format and argues why every crash is survived. `error` names what can fail.

pub mod cli;
pub mod device;
pub mod driver;
pub mod error;
pub mod fencing;
pub mod format;
pub mod region;
pub mod resync;

pub use device::{Access, BLOCK_BYTES, Blocks, MemoryDevice, RawDevice};
pub use driver::ReplicaDriver;
pub use error::RegionError;
pub use format::header::RegionId;
pub use region::{
    ExpectedIdentity, MkfsOptions, Region, RegionWatch, create, create_in_file, create_reserved,
};
