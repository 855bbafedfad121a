//! Transfers without a thread: handed to the kernel through io_uring, and taken back when they have landed.
//!
//! Used by the event loop through ccd-mirror, for what is in an update's path. What always holds:
//! - no call blocks on a device: what the kernel cannot begin without waiting it hands to a thread of its own;
//! - memory and file of a transfer belong to the ring until the kernel has come back from it, and for ever if it is dropped
//!   before: memory that a hung read may still write to is never used for anything else.
//!
//! One mode only (deferred task work, Linux 6.1): completions are made when the owner looks, on the thread that owns the ring. Where
//! the kernel is older or refuses rings, [`Ring::new`] fails, and the caller drives devices by threads.

use super::raw::check_range;
use super::{Transfer, Way};
use io_uring::{IoUring, opcode, types};
use std::fmt;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// Transfers that can be under way at once: more than a node has replicas, each of which has one at a time.
const FLIGHTS_MAX: usize = 8;

/// An open device that transfers may go to.
#[derive(Clone, Debug)]
pub struct RingTarget {
    pub(super) file: Arc<File>,
    pub(super) len_bytes: u64,
}

/// How a transfer ended.
#[derive(Debug)]
pub enum Landing {
    /// All of it is done; what was written is durable.
    Whole,
    Failed(io::Error),
    /// The kernel stopped on the way, or knows no such transfer through a ring. Doing the same again otherwise is right.
    Unfinished,
}

/// A transfer that the kernel has come back from, or never began.
#[derive(Debug)]
pub struct Landed {
    /// What it was started with.
    pub tag: u64,
    pub transfer: Transfer,
    pub landing: Landing,
}

/// Carries transfers to devices while its owner does other things. Implemented by [`Ring`]; tests bring their own.
pub trait Carrier: fmt::Debug {
    /// Takes a transfer, to be begun with the others at the next [`depart`](Self::depart) or [`take`](Self::take).
    ///
    /// # Errors
    /// Gives it back at once if it cannot be begun.
    fn start(&mut self, tag: u64, target: &RingTarget, transfer: Transfer) -> Result<(), Landed>;

    /// Begins what was taken, all together: devices that have something in common flush once for all.
    fn depart(&mut self);

    /// The next one that has landed.
    fn take(&mut self) -> Option<Landed>;

    /// Whether [`take`](Self::take) may have something to say: asked far more often than it has.
    fn has_news(&self) -> bool;
}

#[derive(Debug)]
struct Flight {
    tag: u64,
    transfer: Transfer,
    /// Keeps the descriptor open that the kernel looks up when it takes the entry.
    _target: RingTarget,
}

/// A ring of the kernel's, used on the thread that made it.
pub struct Ring {
    uring: IoUring,
    /// Rung by the kernel. The ring's own descriptor becomes readable only when completions have been made, which is what
    /// the owner is woken for.
    bell: OwnedFd,
    flights: [Option<Flight>; FLIGHTS_MAX],
    /// The kernel takes entries of this thread only.
    _stays: PhantomData<*const ()>,
}

impl Ring {
    /// # Errors
    /// When the kernel has no io_uring of this kind, or does not let us use it.
    pub fn new() -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(FLIGHTS_MAX as u32)?;
        let bell = event_fd()?;
        uring.submitter().register_eventfd(bell.as_raw_fd())?;
        Ok(Self {
            uring,
            bell,
            flights: Default::default(),
            _stays: PhantomData,
        })
    }

    /// Hands over what is queued and lets the kernel make what has completed. What it refuses for a moment stays queued.
    fn enter(&self) {
        while let Err(error) = self.uring.submit() {
            if error.kind() != io::ErrorKind::Interrupted {
                tracing::debug!("the kernel takes no transfers now: {error}");
                return;
            }
        }
    }
}

impl Carrier for Ring {
    fn start(&mut self, tag: u64, target: &RingTarget, mut transfer: Transfer) -> Result<(), Landed> {
        let refuse = |transfer, landing| {
            Err(Landed {
                tag,
                transfer,
                landing,
            })
        };
        let len_bytes = transfer.blocks.len();
        if let Err(outside) = check_range(transfer.offset, len_bytes, target.len_bytes) {
            return refuse(transfer, Landing::Failed(outside));
        }
        let free = self.flights.iter().position(Option::is_none);
        let (Some(index), Ok(len)) = (free, u32::try_from(len_bytes)) else {
            return refuse(transfer, Landing::Unfinished);
        };
        let file = types::Fd(target.file.as_raw_fd());
        let memory = transfer.blocks.as_mut_ptr();
        let entry = match transfer.way {
            Way::Write => opcode::Write::new(file, memory, len)
                .offset(transfer.offset)
                .rw_flags(libc::RWF_DSYNC)
                .build(),
            Way::Read => opcode::Read::new(file, memory, len)
                .offset(transfer.offset)
                .build(),
        };
        let entry = entry.user_data(index as u64);
        // SAFETY: the entry points to the pages of `transfer`, which are on the heap and so stay where they are, and names a
        // descriptor of `target`. Both go into `flights`, where nobody touches them before the kernel has come back; if
        // the ring goes first they are leaked.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        if pushed.is_err() {
            return refuse(transfer, Landing::Unfinished);
        }
        self.flights[index] = Some(Flight {
            tag,
            transfer,
            _target: target.clone(),
        });
        Ok(())
    }

    fn depart(&mut self) {
        if !self.uring.submission().is_empty() {
            self.enter();
        }
    }

    fn take(&mut self) -> Option<Landed> {
        loop {
            if self.uring.completion().is_empty() {
                if !self.has_news() {
                    return None;
                }
                self.enter();
            }
            let done = self.uring.completion().next()?;
            let slot = usize::try_from(done.user_data()).ok();
            let flight = slot.and_then(|index| self.flights.get_mut(index)?.take());
            let Some(Flight { tag, transfer, .. }) = flight else {
                continue;
            };
            let landing = landing(done.result(), transfer.blocks.len());
            return Some(Landed {
                tag,
                transfer,
                landing,
            });
        }
    }

    fn has_news(&self) -> bool {
        // SAFETY: only the owner's thread looks at the queues (the ring cannot go to another), and no other view of them is alive
        // while this call lasts.
        let (completion, submission) =
            unsafe { (self.uring.completion_shared(), self.uring.submission_shared()) };
        !completion.is_empty() || submission.taskrun() || !submission.is_empty() || submission.cq_overflow()
    }
}

/// An event counter, written to whenever something lands after the last look at the ring; it need not be read by who is told of each
/// writing (edge-triggered).
impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for flight in &mut self.flights {
            // The kernel may write to this memory as long as the device hangs, also after the ring is closed.
            std::mem::forget(flight.take());
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("flights", &self.flights)
            .finish_non_exhaustive()
    }
}

fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd touches no memory of ours.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the kernel's result means for a transfer of so many bytes.
fn landing(result: i32, len_bytes: usize) -> Landing {
    match usize::try_from(result) {
        Ok(count) if count == len_bytes => Landing::Whole,
        Ok(_) => Landing::Unfinished,
        Err(_) => match -result {
            libc::EOPNOTSUPP | libc::ENOSYS | libc::EINTR | libc::EAGAIN | libc::ECANCELED => {
                Landing::Unfinished
            }
            errno => Landing::Failed(io::Error::from_raw_os_error(errno)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{BLOCK_BYTES, Buffer};
    use std::io::{Read, Write};
    use std::os::unix::fs::FileExt;
    use std::time::{Duration, Instant};

    /// How long the kernel may take: far more than a busy machine needs.
    const PATIENCE: Duration = Duration::from_secs(20);
    const BLOCK: u64 = BLOCK_BYTES as u64;

    /// `None` where the kernel refuses rings, which it says in one of the known ways.
    fn ring() -> Option<Ring> {
        match Ring::new() {
            Ok(ring) => Some(ring),
            Err(refused) => {
                let known = [libc::ENOSYS, libc::EPERM, libc::EINVAL].map(Some);
                assert!(known.contains(&refused.raw_os_error()), "{refused}");
                None
            }
        }
    }

    fn target(file: File, len_bytes: u64) -> RingTarget {
        let file = Arc::new(file);
        RingTarget { file, len_bytes }
    }

    fn transfer(way: Way, offset: u64, byte: u8) -> Transfer {
        let mut blocks = Buffer::zeroed(2);
        blocks.fill(byte);
        Transfer { way, offset, blocks }
    }

    /// Waits as the event loop does: for the bell.
    fn next(ring: &mut Ring) -> Landed {
        let mut bell = File::from(ring.as_fd().try_clone_to_owned().unwrap());
        let begun = Instant::now();
        loop {
            if let Some(landed) = ring.take() {
                return landed;
            }
            while let Err(error) = bell.read(&mut [0; 8]) {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                assert!(begun.elapsed() < PATIENCE, "the bell rings");
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn what_is_written_through_the_ring_is_in_the_file_and_read_back_through_it() {
        let Some(mut ring) = ring() else { return };
        let files = [7, 9].map(|byte| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(8 * BLOCK).unwrap();
            (byte, target(file, 8 * BLOCK))
        });
        for (byte, target) in &files {
            ring.start(u64::from(*byte), target, transfer(Way::Write, BLOCK, *byte))
                .unwrap();
        }
        assert!(ring.has_news(), "they want to be begun");
        ring.depart();
        let mut tags = [next(&mut ring), next(&mut ring)].map(|landed| {
            assert!(matches!(landed.landing, Landing::Whole), "{landed:?}");
            landed.tag
        });
        tags.sort();
        assert_eq!(tags, [7, 9]);
        for (byte, target) in &files {
            let mut found = [0; 4 * BLOCK_BYTES];
            target.file.read_exact_at(&mut found, 0).unwrap();
            assert!(found[..BLOCK_BYTES].iter().all(|found| *found == 0));
            assert!(
                found[BLOCK_BYTES..3 * BLOCK_BYTES]
                    .iter()
                    .all(|found| found == byte)
            );
            ring.start(1, target, transfer(Way::Read, BLOCK, 0)).unwrap();
            let landed = next(&mut ring);
            assert!(matches!(landed.landing, Landing::Whole), "{landed:?}");
            assert!(landed.transfer.blocks.iter().all(|found| found == byte));
        }
        assert!(ring.take().is_none() && !ring.has_news());
        assert_eq!(
            Arc::strong_count(&files[0].1.file),
            1,
            "nothing is kept of what has landed"
        );
    }

    #[test]
    fn what_fails_and_what_ends_early_are_told_apart() {
        let Some(mut ring) = ring() else { return };
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(3 * BLOCK).unwrap();
        let read_only = target(File::open(file.path()).unwrap(), 8 * BLOCK);
        let outside = ring.start(1, &read_only, transfer(Way::Write, 7 * BLOCK, 1));
        assert!(matches!(outside.unwrap_err().landing, Landing::Failed(_)));
        ring.start(2, &read_only, transfer(Way::Write, 0, 1)).unwrap();
        let Landing::Failed(error) = next(&mut ring).landing else {
            panic!("written to what is open for reading")
        };
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        ring.start(3, &read_only, transfer(Way::Read, 2 * BLOCK, 0))
            .unwrap();
        assert!(matches!(next(&mut ring).landing, Landing::Unfinished));
        for (result, failed) in [
            (-libc::EIO, Some(libc::EIO)),
            (-libc::EBADE, Some(libc::EBADE)),
            (-libc::EOPNOTSUPP, None),
            (-libc::EINTR, None),
        ] {
            let errno = match landing(result, BLOCK_BYTES) {
                Landing::Failed(error) => error.raw_os_error(),
                Landing::Unfinished => None,
                Landing::Whole => panic!("{result} is not whole"),
            };
            assert_eq!(errno, failed);
        }
    }

    #[test]
    fn memory_of_a_read_that_hangs_stays_with_the_ring_and_is_never_freed() {
        let Some(mut ring) = ring() else { return };
        // A pipe in which nothing is: the kernel comes back when something is written, or never.
        let (end, mut other_end) = io::pipe().unwrap();
        let pipe = target(File::from(OwnedFd::from(end)), 8 * BLOCK);
        for tag in 0..FLIGHTS_MAX as u64 {
            ring.start(tag, &pipe, transfer(Way::Read, 0, 0)).unwrap();
        }
        ring.depart();
        assert!(ring.take().is_none());
        let refused = ring.start(99, &pipe, transfer(Way::Read, 0, 0)).unwrap_err();
        assert!(matches!(
            (refused.tag, refused.landing),
            (99, Landing::Unfinished)
        ));
        other_end.write_all(&[5; 2 * BLOCK_BYTES]).unwrap();
        let landed = next(&mut ring);
        assert!(matches!(landed.landing, Landing::Whole), "{landed:?}");
        assert!(landed.transfer.blocks.iter().all(|byte| *byte == 5));
        drop(ring);
        assert_eq!(
            Arc::strong_count(&pipe.file),
            FLIGHTS_MAX,
            "seven hang, and one is ours"
        );
    }
}
