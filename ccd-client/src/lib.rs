//! CCDLIB: what clients of a ccd daemon use.
//!
//! ```text
//!   wire        the messages on the Unix sockets, bytes to types and back (shared with the daemon)
//! ```

pub mod wire;
