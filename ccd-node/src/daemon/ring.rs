//! The ring through which a solo owner's appends reach the devices without their threads, and how the event loop hears from it.

use ccd_disk::device::Ring;
use ccd_mirror::Mirror;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Rings when something has landed; never where there is no ring.
#[derive(Debug)]
pub struct Landings(Option<AsyncFd<OwnedFd>>);

impl Landings {
    /// Nothing is carried by a ring.
    pub const NONE: Self = Self(None);

    /// Gives the mirror a ring, unless the kernel refuses it: then threads drive the devices. Call on the thread of the event
    /// loop, inside its runtime.
    pub fn of(mirror: &mut Mirror) -> Self {
        match Self::give_ring(mirror) {
            Ok(landings) => landings,
            Err(error) => {
                tracing::info!(
                    "no io_uring here ({error}): threads append to the devices, which takes a little longer"
                );
                Self::NONE
            }
        }
    }

    fn give_ring(mirror: &mut Mirror) -> io::Result<Self> {
        let ring = Ring::new()?;
        let fd = ring.as_fd().try_clone_to_owned()?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe, for descriptors that may change; this one is owned"
        )]
        let landings = AsyncFd::with_interest(fd, Interest::READABLE)?;
        mirror.use_ring(Box::new(ring));
        Ok(Self(Some(landings)))
    }

    /// Waits until something has landed that was not told before.
    pub async fn landed(&self) {
        let Some(fd) = &self.0 else {
            return std::future::pending().await;
        };
        match fd.readable().await {
            // Before the mirror looks: what lands from now on is told again, for the runtime is told of each ringing, not of the
            // counter behind it.
            Ok(mut told) => told.clear_ready(),
            // Only while the runtime ends.
            Err(_) => std::future::pending().await,
        }
    }
}
