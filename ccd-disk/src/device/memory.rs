//! A device in memory, for tests and the simulator.
//!
//! It keeps apart what is *readable* (every write at once) and what is *durable* (flushed). A power cut makes the
//! readable content the durable one plus whatever part of the unflushed writes the caller chooses, sector by sector.
//! Several handles may be open at once, as on a shared disk. Nothing here is random: the caller decides every fault.

use super::{BLOCK_BYTES, Blocks, is_zero};
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Block = Arc<[u8; BLOCK_BYTES]>;

/// The parts of one write that reach the medium when the power fails in the middle of it: asked for each sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tear {
    /// Sectors of this size are written whole or not at all: 512 or 4096.
    pub sector_bytes: usize,
    /// Bit `i % 64` says whether sector `i` of the write reaches the medium.
    pub kept: u64,
}

impl Tear {
    fn keeps(self, sector: usize) -> bool {
        self.kept >> (sector % 64) & 1 == 1
    }
}

/// One write as the device saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedWrite {
    pub offset: u64,
    pub data: Vec<u8>,
    /// Data and flush in one; otherwise it is durable only after the next flush.
    pub durable: bool,
    /// A flush: `data` is empty.
    pub flush: bool,
}

#[derive(Debug, Default)]
struct Medium {
    readable: Vec<Option<Block>>,
    durable: Vec<Option<Block>>,
    /// Written but not flushed, oldest first.
    unflushed: Vec<(usize, Block)>,
    log: Option<Vec<LoggedWrite>>,
    writes_count: u64,
    /// The device dies with its n-th write from now on (1: the next), which is torn so.
    dies_at: Option<(u64, Tear)>,
    dead: bool,
    unreadable: BTreeSet<u64>,
    unwritable: BTreeSet<u64>,
    fenced: BTreeSet<u64>,
    handles_count: u64,
}

/// A device in memory. Clones are the same device; [`MemoryDevice::open`] makes handles on it.
#[derive(Clone, Debug)]
pub struct MemoryDevice {
    medium: Arc<Mutex<Medium>>,
    name: Arc<str>,
}

impl MemoryDevice {
    /// A zero-filled device of `len_bytes`, rounded down to whole blocks.
    pub fn new(name: &str, len_bytes: u64) -> Self {
        let blocks = (len_bytes / BLOCK_BYTES as u64) as usize;
        let medium = Medium {
            readable: vec![None; blocks],
            durable: vec![None; blocks],
            ..Medium::default()
        };
        Self {
            medium: Arc::new(Mutex::new(medium)),
            name: name.into(),
        }
    }

    /// A handle, with a number of its own that [`MemoryDevice::fence`] takes.
    pub fn open(&self) -> MemoryHandle {
        let mut medium = self.medium();
        medium.handles_count += 1;
        MemoryHandle {
            device: self.clone(),
            handle: medium.handles_count,
        }
    }

    /// An independent device with the same content, all of it durable, and no faults.
    pub fn fork(&self) -> Self {
        let medium = self.medium();
        let copy = Medium {
            readable: medium.readable.clone(),
            durable: medium.readable.clone(),
            ..Medium::default()
        };
        Self {
            medium: Arc::new(Mutex::new(copy)),
            name: self.name.clone(),
        }
    }

    /// All handles find what another device of this size holds: somebody wrote it below them.
    pub fn overwrite(&self, from: &Self) {
        let (readable, durable) = {
            let from = from.medium();
            (from.readable.clone(), from.readable.clone())
        };
        let mut medium = self.medium();
        medium.readable = readable;
        medium.durable = durable;
        medium.unflushed.clear();
    }

    /// A device of the same size, of zeros.
    pub fn blank(&self) -> Self {
        let blocks = self.medium().readable.len() as u64;
        Self::new(&self.name, blocks.saturating_mul(BLOCK_BYTES as u64))
    }

    /// From now on every write and flush is recorded; [`MemoryDevice::take_log`] returns them.
    pub fn record(&self) {
        self.medium().log = Some(Vec::new());
    }

    pub fn take_log(&self) -> Vec<LoggedWrite> {
        self.medium().log.take().unwrap_or_default()
    }

    /// How many writes the device has seen, flushes not counted.
    pub fn writes_count(&self) -> u64 {
        self.medium().writes_count
    }

    /// The power fails: of every unflushed sector, `keeps(write index, sector index)` says whether it reached the
    /// medium. The device works on afterwards; its users must open it anew, as after a reboot.
    pub fn power_cut(&self, sector_bytes: usize, mut keeps: impl FnMut(usize, usize) -> bool) {
        let mut medium = self.medium();
        for (index, (block, data)) in std::mem::take(&mut medium.unflushed).into_iter().enumerate() {
            for sector in 0..BLOCK_BYTES / sector_bytes {
                if keeps(index, sector) {
                    let part = sector * sector_bytes..(sector + 1) * sector_bytes;
                    patch(&mut medium.durable[block], part, &data[..]);
                }
            }
        }
        medium.readable = medium.durable.clone();
        medium.dies_at = None;
        medium.dead = false;
    }

    /// The device dies in the middle of its `nth` write from now (1: the next one), which is torn as `tear` says; every
    /// later call fails until [`MemoryDevice::power_cut`].
    pub fn die_at_write(&self, nth: u64, tear: Tear) {
        self.medium().dies_at = Some((nth, tear));
    }

    /// Every call fails from now on (a device that is gone), or works again.
    pub fn set_dead(&self, dead: bool) {
        self.medium().dead = dead;
    }

    /// Reads that touch these blocks fail from now on; an empty range ends it.
    pub fn fail_reads(&self, blocks: Range<u64>) {
        self.medium().unreadable = blocks.collect();
    }

    /// Writes that touch these blocks fail from now on, after having written nothing; an empty range ends it.
    pub fn fail_writes(&self, blocks: Range<u64>) {
        self.medium().unwritable = blocks.collect();
    }

    /// Writes through this handle are refused with EBADE, as after a reservation conflict.
    pub fn fence(&self, handle: u64) {
        self.medium().fenced.insert(handle);
    }

    /// Changes the content behind everybody's back, durably: bit rot, or a foreign writer.
    pub fn corrupt(&self, offset: u64, change: impl FnOnce(&mut [u8; BLOCK_BYTES])) {
        let mut medium = self.medium();
        let index = (offset / BLOCK_BYTES as u64) as usize;
        let mut block = medium.readable[index]
            .as_deref()
            .copied()
            .unwrap_or([0; BLOCK_BYTES]);
        change(&mut block);
        medium.readable[index] = Some(Arc::new(block));
        medium.durable[index] = medium.readable[index].clone();
    }

    /// Applies one recorded write as if it had been made here, durably; with a tear only that part of it.
    pub fn replay(&self, write: &LoggedWrite, tear: Option<Tear>) {
        let mut medium = self.medium();
        let tear = tear.unwrap_or(Tear {
            sector_bytes: BLOCK_BYTES,
            kept: u64::MAX,
        });
        apply_torn(&mut medium.durable, write.offset, &write.data, tear);
        medium.readable = medium.durable.clone();
    }

    /// The blocks that are not all zero, by number.
    pub fn used_blocks(&self) -> Vec<u64> {
        let medium = self.medium();
        (0..)
            .zip(&medium.readable)
            .filter(|(_, block)| block.is_some())
            .map(|(number, _)| number)
            .collect()
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open [`MemoryDevice`].
#[derive(Debug)]
pub struct MemoryHandle {
    device: MemoryDevice,
    handle: u64,
}

impl MemoryHandle {
    /// The number that [`MemoryDevice::fence`] takes.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    fn write(&self, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        let mut medium = self.device.medium();
        let blocks = medium.check(offset, data.len())?;
        medium.writes_count += 1;
        if let Some((nth, tear)) = medium.dies_at {
            if nth <= 1 {
                medium.dead = true;
                if durable {
                    apply_torn(&mut medium.durable, offset, data, tear);
                }
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            medium.dies_at = Some((nth - 1, tear));
        }
        if medium.fenced.contains(&self.handle) {
            return Err(io::Error::from_raw_os_error(libc::EBADE));
        }
        if blocks
            .clone()
            .any(|block| medium.unwritable.contains(&(block as u64)))
        {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if let Some(log) = &mut medium.log {
            log.push(LoggedWrite {
                offset,
                data: data.to_vec(),
                durable,
                flush: false,
            });
        }
        if durable && !medium.unflushed.is_empty() {
            medium.unflushed.retain(|(block, _)| !blocks.contains(block));
        }
        for (block, bytes) in blocks.zip(data.chunks_exact(BLOCK_BYTES)) {
            let stored = if is_zero(bytes) {
                None
            } else {
                Some(Arc::new(
                    <[u8; BLOCK_BYTES]>::try_from(bytes).expect("chunk of one block"),
                ))
            };
            if durable {
                medium.durable[block].clone_from(&stored);
            } else {
                let pending = stored.clone().unwrap_or_else(|| Arc::new([0; BLOCK_BYTES]));
                medium.unflushed.push((block, pending));
            }
            medium.readable[block] = stored;
        }
        Ok(())
    }
}

impl Blocks for MemoryHandle {
    fn len_bytes(&self) -> u64 {
        (self.device.medium().readable.len() * BLOCK_BYTES) as u64
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let medium = self.device.medium();
        let blocks = medium.check(offset, into.len())?;
        for (block, bytes) in blocks.zip(into.chunks_exact_mut(BLOCK_BYTES)) {
            if medium.unreadable.contains(&(block as u64)) {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            match &medium.readable[block] {
                Some(content) => bytes.copy_from_slice(&content[..]),
                None => bytes.fill(0),
            }
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write(offset, data, true)
    }

    fn write_unflushed_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write(offset, data, false)
    }

    fn zero_at(&mut self, offset: u64, len_bytes: u64) -> io::Result<()> {
        let mut medium = self.device.medium();
        let blocks = medium.check(offset, len_bytes as usize)?;
        medium.unflushed.retain(|(block, _)| !blocks.contains(block));
        medium.readable[blocks.clone()].fill(None);
        medium.durable[blocks].fill(None);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut medium = self.device.medium();
        if medium.dead {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if let Some(log) = &mut medium.log {
            log.push(LoggedWrite {
                offset: 0,
                data: Vec::new(),
                durable: false,
                flush: true,
            });
        }
        for (block, data) in std::mem::take(&mut medium.unflushed) {
            medium.durable[block] = if is_zero(&data[..]) { None } else { Some(data) };
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.device.name.to_string()
    }
}

impl Medium {
    /// The blocks of a transfer, if the device can do it.
    fn check(&self, offset: u64, len_bytes: usize) -> io::Result<Range<usize>> {
        if self.dead {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let first = usize::try_from(offset).unwrap_or(usize::MAX) / BLOCK_BYTES;
        let end = first.saturating_add(len_bytes / BLOCK_BYTES);
        let aligned = offset.is_multiple_of(BLOCK_BYTES as u64) && len_bytes.is_multiple_of(BLOCK_BYTES);
        if !aligned || end > self.readable.len() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(first..end)
    }
}

fn apply_torn(blocks: &mut [Option<Block>], offset: u64, data: &[u8], tear: Tear) {
    let first = (offset / BLOCK_BYTES as u64) as usize;
    for sector in 0..data.len() / tear.sector_bytes {
        if tear.keeps(sector) {
            let start = sector * tear.sector_bytes;
            let block = first + start / BLOCK_BYTES;
            let within = start % BLOCK_BYTES;
            let source = &data[start - within..start - within + BLOCK_BYTES];
            patch(&mut blocks[block], within..within + tear.sector_bytes, source);
        }
    }
}

/// Copies `part` of the block `from` over the same part of `block`.
fn patch(block: &mut Option<Block>, part: Range<usize>, from: &[u8]) {
    let mut content = block.as_deref().copied().unwrap_or([0; BLOCK_BYTES]);
    content[part.clone()].copy_from_slice(&from[part]);
    *block = if is_zero(&content) {
        None
    } else {
        Some(Arc::new(content))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_of(byte: u8) -> Vec<u8> {
        vec![byte; BLOCK_BYTES]
    }

    fn read(handle: &mut MemoryHandle, block: u64) -> Vec<u8> {
        let mut content = block_of(0xff);
        handle.read_at(block * BLOCK_BYTES as u64, &mut content).unwrap();
        content
    }

    #[test]
    fn a_power_cut_keeps_flushed_writes_and_the_chosen_part_of_the_others() {
        let device = MemoryDevice::new("m", 8 * BLOCK_BYTES as u64);
        let mut handle = device.open();
        handle.write_at(0, &block_of(1)).unwrap();
        handle.write_unflushed_at(4096, &block_of(2)).unwrap();
        handle.flush().unwrap();
        handle.write_unflushed_at(8192, &block_of(3)).unwrap();
        assert_eq!(read(&mut handle, 2), block_of(3), "readable before it is durable");
        device.power_cut(512, |_, sector| sector == 1);
        assert_eq!(read(&mut handle, 0), block_of(1));
        assert_eq!(read(&mut handle, 1), block_of(2));
        let torn = read(&mut handle, 2);
        assert!(torn[..512].iter().all(|b| *b == 0) && torn[512..1024].iter().all(|b| *b == 3));
        assert!(torn[1024..].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_dying_device_tears_its_last_write_and_refuses_everything_after() {
        let device = MemoryDevice::new("m", 8 * BLOCK_BYTES as u64);
        let mut handle = device.open();
        device.die_at_write(
            2,
            Tear {
                sector_bytes: 4096,
                kept: 0b10,
            },
        );
        handle.write_at(0, &block_of(1)).unwrap();
        assert!(
            handle
                .write_at(4096, &[block_of(2), block_of(3)].concat())
                .is_err()
        );
        assert!(handle.read_at(0, &mut block_of(0)).is_err());
        device.power_cut(512, |_, _| false);
        assert_eq!(read(&mut handle, 0), block_of(1));
        assert_eq!(read(&mut handle, 1), block_of(0));
        assert_eq!(read(&mut handle, 2), block_of(3));
    }

    #[test]
    fn transfers_that_are_not_whole_blocks_of_the_device_are_refused() {
        let device = MemoryDevice::new("m", 2 * BLOCK_BYTES as u64);
        let mut handle = device.open();
        assert!(handle.write_at(1, &block_of(1)).is_err());
        assert!(handle.write_at(8192, &block_of(1)).is_err());
        assert!(handle.read_at(0, &mut [0; 512]).is_err());
        device.fence(handle.handle());
        let refused = handle.write_at(0, &block_of(1)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EBADE));
    }
}
