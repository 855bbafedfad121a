//! The same bytes to many sockets, handed to the kernel together.
//!
//! With ten thousand watchers an update costs the daemon ten thousand sends, and nearly nothing else. Through io_uring they need a
//! few dozen calls, and take a tenth less of the processor. Where the kernel has no ring of this kind, or does not let us use it,
//! each socket gets a call of its own. Used by `group.rs`, on the hub's thread.
//!
//! What always holds: when [`fire`](Volley::fire) returns, the kernel is done with the bytes. No send waits, so each has come back
//! when the call that handed it over returns; if that call fails, the ring is closed before the bytes go, and with it what was
//! not handed over.

use super::watcher::{Gone, write};
use io_uring::{IoUring, opcode, types};
use std::fmt;
use std::io;
use std::os::fd::RawFd;

/// Most sockets that are handed over at once.
pub const SHOTS_MAX: usize = 256;
/// For fewer a ring gains nothing.
const SHOTS_MIN: usize = 8;

pub struct Volley {
    uring: Option<IoUring>,
}

impl Volley {
    /// Each socket gets a call of its own.
    pub fn single() -> Self {
        Self { uring: None }
    }

    /// To be called on the thread that uses it: the kernel takes entries from no other.
    pub fn together() -> Self {
        match ring() {
            Ok(uring) => Self { uring: Some(uring) },
            Err(error) => {
                tracing::debug!(%error, "watchers are told one by one");
                Self::single()
            }
        }
    }

    /// Writes to at most [`SHOTS_MAX`] sockets what each takes without waiting; how much that is, in their order.
    pub fn fire(&mut self, sockets: &[RawFd], bytes: &[u8]) -> Vec<Result<usize, Gone>> {
        let results = match &mut self.uring {
            Some(uring) if sockets.len() >= SHOTS_MIN => {
                let (results, outcome) = send_all(uring, sockets, bytes);
                if let Err(error) = outcome {
                    tracing::warn!(%error, "the kernel takes no sends together any more: watchers are told one by one");
                    self.uring = None;
                }
                results
            }
            _ => Vec::new(),
        };
        let results = results.into_iter().chain(std::iter::repeat(None));
        (sockets.iter().zip(results))
            .map(|(socket, result)| finish(*socket, bytes, result))
            .collect()
    }
}

impl fmt::Debug for Volley {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volley")
            .field("together", &self.uring.is_some())
            .finish()
    }
}

fn ring() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_submit_all()
        .build(SHOTS_MAX as u32)
}

/// What the kernel said of each socket, as far as it came.
fn send_all(uring: &mut IoUring, sockets: &[RawFd], bytes: &[u8]) -> (Vec<Option<i32>>, io::Result<()>) {
    let mut results = vec![None; sockets.len()];
    let Ok(len_bytes) = u32::try_from(bytes.len()) else {
        return (results, Ok(()));
    };
    let mut waiting = 0;
    for (index, socket) in sockets.iter().enumerate() {
        let entry = opcode::Send::new(types::Fd(*socket), bytes.as_ptr(), len_bytes)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
            .build()
            .user_data(index as u64);
        // SAFETY: the entry points to `bytes`, which outlive this call. The kernel has come back from every entry that it took when
        // this function returns with `Ok`; with an error the caller closes the ring, and entries that were not taken go with it.
        if unsafe { uring.submission().push(&entry) }.is_err() {
            break;
        }
        waiting += 1;
    }
    while waiting > 0 {
        match uring.submit_and_wait(waiting) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (results, Err(error)),
        }
        for done in uring.completion() {
            waiting -= 1;
            let index = usize::try_from(done.user_data()).ok();
            if let Some(result) = index.and_then(|index| results.get_mut(index)) {
                *result = Some(done.result());
            }
        }
    }
    (results, Ok(()))
}

/// What is left to be done, if anything, is done by a call of its own, which also says what is wrong.
fn finish(socket: RawFd, bytes: &[u8], result: Option<i32>) -> Result<usize, Gone> {
    match result {
        Some(result) if result == -libc::EAGAIN => Ok(0),
        Some(result) => {
            let sent = usize::try_from(result).unwrap_or(0).min(bytes.len());
            Ok(sent + write(socket, &bytes[sent..])?)
        }
        None => write(socket, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{setsockopt, sockopt::SndBuf};
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    const BYTES: &[u8] = &[7; 3_000];

    /// Sockets that take all, some of it, nothing; and one whose other end is gone.
    fn sockets() -> (Vec<UnixStream>, Vec<Option<UnixStream>>) {
        (0..SHOTS_MAX)
            .map(|number| {
                let (ours, theirs) = UnixStream::pair().unwrap();
                ours.set_nonblocking(true).unwrap();
                if number % 16 == 3 {
                    setsockopt(&ours, SndBuf, &1).unwrap();
                    while write(ours.as_raw_fd(), BYTES) == Ok(BYTES.len()) {}
                }
                (ours, Some(theirs).filter(|_| number != 100))
            })
            .unzip()
    }

    fn fired(volley: &mut Volley) -> Vec<Result<usize, Gone>> {
        let (ours, mut theirs) = sockets();
        let descriptors: Vec<RawFd> = ours.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = volley.fire(&descriptors, BYTES);
        drop(ours);
        for (number, sent) in sent.iter().enumerate() {
            let Some(stream) = &mut theirs[number] else {
                assert_eq!(*sent, Err(Gone), "{number}");
                continue;
            };
            let mut came = Vec::new();
            stream.read_to_end(&mut came).unwrap();
            assert!(came.iter().all(|byte| *byte == 7));
            if number % 16 == 3 {
                let took = sent.unwrap();
                assert!(took < BYTES.len() && came.len() >= took, "{number}");
            } else {
                assert_eq!((*sent, came.len()), (Ok(BYTES.len()), BYTES.len()), "{number}");
            }
        }
        sent
    }

    #[test]
    fn told_together_and_one_by_one_is_the_same() {
        let mut together = Volley::together();
        assert_eq!(fired(&mut together), fired(&mut Volley::single()));
        assert_eq!(
            together.uring.is_some(),
            ring().is_ok(),
            "it is still used where the kernel has it"
        );
    }

    #[test]
    fn a_ring_that_the_kernel_takes_nothing_from_is_given_up_and_nobody_is_left_out() {
        // Its descriptor is another file's: each call fails.
        let Ok(uring) = ring() else { return };
        let null = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: the ring goes on to own its descriptor, whatever that is now.
        assert!(unsafe { libc::dup2(null.as_raw_fd(), uring.as_raw_fd()) } >= 0);
        let mut volley = Volley { uring: Some(uring) };
        fired(&mut volley);
        assert!(volley.uring.is_none());
    }
}
