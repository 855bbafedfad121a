//! Two files written in one io_uring submission, then read in one: the fastest way to have both in flight together.

use ccd_disk::BLOCK_BYTES;
use ccd_disk::device::Buffer;
use io_uring::{IoUring, opcode, squeue, types};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

pub struct Ring {
    /// Has both files registered, which keeps them open.
    uring: IoUring,
    /// Written to, and read back into.
    blocks: [Buffer; 2],
    len_bytes: u64,
    offset: u64,
}

impl Ring {
    /// Opens two files that are there, zero-filled, of this length.
    ///
    /// # Errors
    /// When the kernel has no io_uring or does not let us use it, or a file cannot be opened.
    pub fn open(paths: &[PathBuf; 2], len_bytes: u64) -> io::Result<Self> {
        let open = |path| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_DIRECT)
                .open(path)
        };
        let files = [open(&paths[0])?, open(&paths[1])?];
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(4)
            .or_else(|_| IoUring::new(4))?;
        uring
            .submitter()
            .register_files(&[files[0].as_raw_fd(), files[1].as_raw_fd()])?;
        Ok(Self {
            uring,
            blocks: [Buffer::zeroed(1), Buffer::zeroed(1)],
            len_bytes,
            offset: 0,
        })
    }

    /// Writes a block durably on both, then reads one of both.
    pub fn round(&mut self) -> io::Result<()> {
        let offset = self.offset;
        self.offset = (offset + BLOCK_BYTES as u64) % self.len_bytes;
        let writes = [0, 1].map(|index| {
            let block = self.blocks[index].block_mut(0);
            block[0] = block[0].wrapping_add(1);
            opcode::Write::new(types::Fixed(index as u32), block.as_ptr(), BLOCK_BYTES as u32)
                .offset(offset)
                .rw_flags(libc::RWF_DSYNC)
                .build()
        });
        self.both(writes)?;
        let middle = self.len_bytes / 2;
        let reads = [0, 1].map(|index| {
            let block = self.blocks[index].block_mut(0);
            opcode::Read::new(types::Fixed(index as u32), block.as_mut_ptr(), BLOCK_BYTES as u32)
                .offset(middle)
                .build()
        });
        self.both(reads)
    }

    fn both(&mut self, entries: [squeue::Entry; 2]) -> io::Result<()> {
        for entry in &entries {
            // SAFETY: every entry points into `self.blocks`, which stay where they are until both have completed: this
            // function waits for that, and nobody else touches them meanwhile.
            unsafe { self.uring.submission().push(entry) }.map_err(io::Error::other)?;
        }
        self.uring.submit_and_wait(entries.len())?;
        for done in self.uring.completion() {
            match done.result() {
                code if code < 0 => return Err(io::Error::from_raw_os_error(-code)),
                bytes if bytes as usize != BLOCK_BYTES => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
        }
        Ok(())
    }
}
