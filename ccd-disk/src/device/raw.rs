//! A real device: a plain file, a loop device, any block device. Opened by the daemon and by `ccd-disk`.
//!
//! O_DIRECT, so that a write that returned has really been taken by the device (a buffered write to a fenced device
//! "succeeds"), and so that a read sees what another machine wrote. Exclusive when opened for writing.

use super::{BLOCK_BYTES, Blocks, Buffer, Place, RingTarget};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading and writing, refused (`ResourceBusy`) if another process has it so.
    Exclusive,
    /// For reading and writing a file or loop device that stands for a shared disk: the daemons of the other nodes,
    /// on the same machine, have it too. Refused if a process has it `Exclusive`.
    Shared,
    /// For looking at it, also while a daemon runs.
    ReadOnly,
}

/// An open file or block device.
#[derive(Debug)]
pub struct RawDevice {
    file: Arc<File>,
    path: PathBuf,
    len_bytes: u64,
    /// The kernel or file system takes data and flush in one write (RWF_DSYNC).
    flushes_with_write: bool,
    /// Opened without O_DIRECT because the file system knows none (tmpfs).
    buffered: bool,
    /// For callers whose memory is not page-aligned.
    bounce: Buffer,
}

/// Blocks that go through the bounce buffer at once: 1 MiB.
const BOUNCE_BLOCKS: usize = 256;

/// Who holds a device this long uses it.
const FREE_WITHIN: Duration = Duration::from_secs(2);

impl RawDevice {
    /// Opens an existing file or block device.
    ///
    /// `ResourceBusy` if another process holds it, `InvalidInput` if its sectors are larger than a block.
    pub fn open(path: &Path, access: Access) -> io::Result<Self> {
        let writes = access != Access::ReadOnly;
        // A FIFO would block for ever and a terminal would become ours: look before opening for real.
        let kind = std::fs::metadata(path)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "is neither a file nor a block device",
            ));
        }
        let mut flags = libc::O_CLOEXEC;
        if access == Access::Exclusive && kind.is_block_device() {
            flags |= libc::O_EXCL;
        }
        let open = |flags| {
            OpenOptions::new()
                .read(true)
                .write(writes)
                .custom_flags(flags)
                .open(path)
        };
        let (file, buffered) = match open(flags | libc::O_DIRECT) {
            Err(refused) if refused.raw_os_error() == Some(libc::EINVAL) => (open(flags)?, true),
            opened => (opened?, false),
        };
        if buffered {
            tracing::warn!(path = %path.display(), "opened without O_DIRECT, which its file system does not know");
        }
        if writes {
            lock(&file, access)?;
        }
        if kind.is_block_device() {
            let sector_bytes = sector_bytes(&file)?;
            if sector_bytes > BLOCK_BYTES as u64 {
                let text = format!("has sectors of {sector_bytes} bytes, more than {BLOCK_BYTES}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        }
        let len_bytes = len_bytes(&file)? / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        Ok(Self {
            file: Arc::new(file),
            path: path.to_owned(),
            len_bytes,
            flushes_with_write: true,
            buffered,
            bounce: Buffer::zeroed(0),
        })
    }

    /// Opens it for this process alone, and waits out those who hold it for a moment: a daemon that misses its device and looks twice
    /// a second whether it is a region by now; udev, which locks what it probes; a program that is being started by this
    /// process, which has all open files until it is.
    ///
    /// `ResourceBusy` if another process uses it, which is known after 2 s; otherwise as [`open`](Self::open).
    pub fn open_when_free(path: &Path) -> io::Result<Self> {
        let begun = Instant::now();
        loop {
            match Self::open(path, Access::Exclusive) {
                Err(error)
                    if error.kind() == io::ErrorKind::ResourceBusy && begun.elapsed() < FREE_WITHIN =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                outcome => return outcome,
            }
        }
    }

    /// Makes a new file of `len_bytes` (readable by its owner alone) and opens it; refuses one that exists. Its size is durable with
    /// its first flush, its name when the caller sees to that.
    pub fn create_file(path: &Path, len_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.set_len(len_bytes)?;
        drop(file);
        Self::open(path, Access::Exclusive)
    }

    /// The open file, for whoever asks which one it is and whether it is still open.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Whether reads and writes go through the page cache: fine for a local copy, wrong for a shared device.
    pub fn is_buffered(&self) -> bool {
        self.buffered
    }

    /// Room for the largest piece of a transfer. Most are of one block, such as a heartbeat's: they must not cost what a large one does.
    fn grow_bounce(&mut self, len: usize) {
        let blocks = len.div_ceil(BLOCK_BYTES).min(BOUNCE_BLOCKS);
        if self.bounce.blocks() < blocks {
            self.bounce = Buffer::zeroed(blocks);
        }
    }

    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        check_range(offset, len, self.len_bytes)
    }

    fn write(&mut self, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        self.check(offset, data.len())?;
        if is_aligned(data) {
            return write_all(&self.file, offset, data, durable, &mut self.flushes_with_write);
        }
        self.grow_bounce(data.len());
        for (index, chunk) in data.chunks(BOUNCE_BLOCKS * BLOCK_BYTES).enumerate() {
            let at = offset + (index * BOUNCE_BLOCKS * BLOCK_BYTES) as u64;
            self.bounce[..chunk.len()].copy_from_slice(chunk);
            let aligned = &self.bounce[..chunk.len()];
            write_all(&self.file, at, aligned, durable, &mut self.flushes_with_write)?;
        }
        Ok(())
    }
}

impl Blocks for RawDevice {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.check(offset, into.len())?;
        if is_aligned(into) {
            return read_all(&self.file, offset, into);
        }
        self.grow_bounce(into.len());
        for (index, chunk) in into.chunks_mut(BOUNCE_BLOCKS * BLOCK_BYTES).enumerate() {
            let at = offset + (index * BOUNCE_BLOCKS * BLOCK_BYTES) as u64;
            let aligned = &mut self.bounce[..chunk.len()];
            read_all(&self.file, at, aligned)?;
            chunk.copy_from_slice(aligned);
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write(offset, data, true)
    }

    fn write_unflushed_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write(offset, data, false)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn reserve_zeros_at(&mut self, offset: u64, len_bytes: u64) -> io::Result<()> {
        let range = libc::off_t::try_from(offset).and_then(|at| Ok((at, libc::off_t::try_from(len_bytes)?)));
        let (at, len) = range.map_err(io::Error::other)?;
        // SAFETY: fallocate touches no memory of ours; the descriptor is open because `file` is borrowed.
        let done = unsafe { libc::fallocate(self.file.as_raw_fd(), libc::FALLOC_FL_ZERO_RANGE, at, len) };
        if done == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            interrupted if interrupted.kind() == io::ErrorKind::Interrupted => {
                self.reserve_zeros_at(offset, len_bytes)
            }
            // Writing them is always possible, and says what is wrong if something is.
            _ => self.zero_at(offset, len_bytes),
        }
    }

    fn len_bytes_now(&mut self) -> io::Result<u64> {
        len_bytes(&self.file)
    }

    fn look_at_place(&mut self) -> io::Result<Place> {
        let here = place_of(&self.file.metadata()?);
        Ok(match std::fs::metadata(&self.path) {
            Ok(named) if place_of(&named) == here => Place::Here,
            Ok(named) if named.file_type().is_block_device() => Place::OtherNumber,
            Ok(_) => Place::OtherFile,
            Err(error) => Place::Nowhere(error),
        })
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// None for what goes through the page cache, where a kernel thread would do the work, or knows no flush with a write.
    fn ring_target(&self) -> Option<RingTarget> {
        (self.flushes_with_write && !self.buffered).then(|| RingTarget {
            file: self.file.clone(),
            len_bytes: self.len_bytes,
        })
    }
}

/// Whole blocks, within a device of this length.
pub(super) fn check_range(offset: u64, len: usize, len_bytes: u64) -> io::Result<()> {
    let block = BLOCK_BYTES as u64;
    let inside = offset.checked_add(len as u64).is_some_and(|end| end <= len_bytes);
    if !offset.is_multiple_of(block) || !(len as u64).is_multiple_of(block) || !inside {
        let text = format!("transfer of {len} bytes at {offset} is not within {len_bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

/// Makes the name of a file durable.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn is_aligned(memory: &[u8]) -> bool {
    memory.as_ptr().addr().is_multiple_of(BLOCK_BYTES)
}

/// Reads all of `into`; a device that ends too early is an error, an interruption is not.
fn read_all(file: &File, offset: u64, into: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < into.len() {
        let rest = &mut into[done..];
        let at = libc::off_t::try_from(offset + done as u64).map_err(io::Error::other)?;
        // SAFETY: `rest` is valid for writes of its whole length for the time of the call, and the descriptor is open
        // because `file` is borrowed.
        let count = unsafe { libc::pread(file.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), at) };
        match transferred(count)? {
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(count) => done += count,
            None => {}
        }
    }
    Ok(())
}

/// Writes all of `data`; durable means data and flush in one, or one after the other where the kernel cannot.
fn write_all(file: &File, offset: u64, data: &[u8], durable: bool, with_flag: &mut bool) -> io::Result<()> {
    let mut done = 0;
    let mut flushed = true;
    while done < data.len() {
        let rest = &data[done..];
        let at = libc::off_t::try_from(offset + done as u64).map_err(io::Error::other)?;
        let part = libc::iovec {
            iov_base: rest.as_ptr().cast_mut().cast(),
            iov_len: rest.len(),
        };
        let flags = if durable && *with_flag { libc::RWF_DSYNC } else { 0 };
        // SAFETY: `part` describes `rest`, which is valid for reads for the time of the call (the kernel does not write
        // through an iovec of a write), and the descriptor is open because `file` is borrowed.
        let count = unsafe { libc::pwritev2(file.as_raw_fd(), &raw const part, 1, at, flags) };
        match transferred(count) {
            Err(refused) if flags != 0 && is_unsupported(&refused) => *with_flag = false,
            Err(failed) => return Err(failed),
            Ok(Some(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(Some(count)) => {
                done += count;
                flushed &= flags != 0;
            }
            Ok(None) => {}
        }
    }
    if durable && !flushed {
        file.sync_data()?;
    }
    Ok(())
}

/// `None`: interrupted, try again.
fn transferred(count: libc::ssize_t) -> io::Result<Option<usize>> {
    match usize::try_from(count) {
        Ok(count) => Ok(Some(count)),
        Err(_) => match io::Error::last_os_error() {
            interrupted if interrupted.kind() == io::ErrorKind::Interrupted => Ok(None),
            failed => Err(failed),
        },
    }
}

fn is_unsupported(refused: &io::Error) -> bool {
    matches!(refused.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}

/// `flock`: exclusive, it refuses a second daemon, and stops udev from probing the device.
fn lock(file: &File, access: Access) -> io::Result<()> {
    let kind = match access {
        Access::Shared => libc::LOCK_SH,
        Access::Exclusive | Access::ReadOnly => libc::LOCK_EX,
    };
    // SAFETY: flock touches no memory of ours; the descriptor is open because `file` is borrowed.
    if unsafe { libc::flock(file.as_raw_fd(), kind | libc::LOCK_NB) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        held if held.kind() == io::ErrorKind::WouldBlock => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another process holds it; is a ccdd running on it? See `fuser -v` on it",
        )),
        failed => Err(failed),
    }
}

/// What is the same for two names of one device, or of one file.
fn place_of(metadata: &Metadata) -> (u64, u64) {
    if metadata.file_type().is_block_device() {
        return (metadata.rdev(), 0);
    }
    (metadata.dev(), metadata.ino())
}

/// The size of a file or block device (whose metadata says zero).
fn len_bytes(file: &File) -> io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    let mut file = file;
    file.seek(SeekFrom::End(0))
}

/// BLKSSZGET of `linux/fs.h`: the logical sector size, as an `int`.
fn sector_bytes(file: &File) -> io::Result<u64> {
    const BLKSSZGET: libc::c_ulong = 0x1268;
    let mut bytes: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int, which `bytes` is, and nothing else.
    let code = unsafe { libc::ioctl(file.as_raw_fd(), BLKSSZGET as _, &raw mut bytes) };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    u64::try_from(bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_back_what_was_written_aligned_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("region");
        let mut device = RawDevice::create_file(&path, 3 << 20).unwrap();
        assert_eq!(device.len_bytes(), 3 << 20);
        let data: Vec<u8> = (0..2 * 1024 * 1024 + 4096)
            .map(|index| (index % 251) as u8)
            .collect();
        device.write_at(4096, &data[..]).unwrap();
        let mut back = vec![0; data.len() + 1];
        device.read_at(4096, &mut back[1..]).unwrap();
        assert!(back[1..] == data[..]);
        let mut aligned = Buffer::zeroed(513);
        device.read_at(4096, &mut aligned).unwrap();
        assert!(aligned[..] == data[..]);
    }

    #[test]
    fn what_is_reserved_reads_as_zeros_whatever_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut device = RawDevice::create_file(&folder.path().join("region"), 1 << 20).unwrap();
        let mut data = Buffer::zeroed(4);
        data.fill(7);
        device.write_at(4096, &data).unwrap();
        device.reserve_zeros_at(8192, 64 << 10).unwrap();
        let mut back = Buffer::zeroed(18);
        device.read_at(4096, &mut back).unwrap();
        assert!(back[..4096].iter().all(|byte| *byte == 7));
        assert!(super::super::is_zero(&back[4096..]));
        device.write_at(12288, &data).unwrap();
        device.read_at(12288, &mut data).unwrap();
        assert!(data.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn a_second_writer_is_refused_and_a_reader_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("region");
        let device = RawDevice::create_file(&path, 1 << 20).unwrap();
        let refused = RawDevice::open(&path, Access::Exclusive).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
        RawDevice::open(&path, Access::ReadOnly).unwrap();
        drop(device);
        RawDevice::open(&path, Access::Exclusive).unwrap();
    }

    #[test]
    fn who_holds_a_device_for_a_moment_is_waited_out_and_who_uses_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("region");
        // As udev does while it probes.
        let probe = RawDevice::create_file(&path, 1 << 20).unwrap().file;
        let (opening, waits) = std::sync::mpsc::channel();
        let holder = std::thread::spawn(move || {
            waits.recv().unwrap();
            std::thread::sleep(Duration::from_millis(50));
            drop(probe);
        });
        opening.send(()).unwrap();
        let device = RawDevice::open_when_free(&path).unwrap();
        holder.join().unwrap();
        let refused = RawDevice::open_when_free(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
        drop(device);
    }

    #[test]
    fn what_is_no_file_or_lies_outside_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = RawDevice::open(folder.path(), Access::ReadOnly).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        let mut device = RawDevice::create_file(&folder.path().join("r"), 8192).unwrap();
        assert!(device.read_at(8192, &mut Buffer::zeroed(1)).is_err());
        assert!(device.read_at(u64::MAX - 4095, &mut Buffer::zeroed(1)).is_err());
        assert!(device.write_at(512, &Buffer::zeroed(1)).is_err());
    }
}
