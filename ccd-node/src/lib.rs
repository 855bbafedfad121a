//! `ccdd`: drives the protocol of ccd-core with real disks, sockets and clocks.
pub mod clients;
mod outbox;
pub mod peers;
mod quiet;
