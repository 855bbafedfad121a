//! The kinds of content that a device may hold, by the marks that file systems and others leave: so that mkfs destroys nothing by mistake,
//! and a region that is gone says what took its place.
//!
//! Marks as in the kernel's and util-linux' definitions. Only places are looked at, nothing is interpreted.

use crate::device::{BLOCK_BYTES, Blocks, Buffer, is_zero};
use crate::format::geometry::END_BLOCKS;
use crate::format::header::Identity;
use crate::format::superblock::Superblock;
use std::io;

/// What a device seems to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeros in the first and last MiB.
    Nothing,
    /// Something that no mark tells.
    Unknown,
    /// By its usual name.
    Known(&'static str),
    Region {
        identity: Identity,
        label: String,
    },
}

/// Where a mark lies.
#[derive(Clone, Copy)]
enum At {
    Start(usize),
    /// So many bytes before the end.
    End(usize),
}

/// Name, place, mark.
const MARKS: &[(&str, At, &[u8])] = &[
    ("LUKS", At::Start(0), b"LUKS\xba\xbe"),
    ("xfs", At::Start(0), b"XFSB"),
    ("squashfs", At::Start(0), b"hsqs"),
    ("sanlock", At::Start(0), &[0x10, 0x20, 0x21, 0x12]),
    ("sbd", At::Start(0), b"SBD_SBD_"),
    ("Ceph BlueStore", At::Start(0), b"bluestore block device"),
    ("NTFS", At::Start(3), b"NTFS    "),
    ("exFAT", At::Start(3), b"EXFAT   "),
    ("BitLocker", At::Start(3), b"-FVE-FS-"),
    ("FAT", At::Start(54), b"FAT1"),
    ("FAT", At::Start(82), b"FAT32"),
    ("Oracle ASM", At::Start(32), b"ORCLDISK"),
    ("GPT partition table", At::Start(512), b"EFI PART"),
    ("GPT partition table", At::Start(4096), b"EFI PART"),
    ("GPT partition table", At::End(512), b"EFI PART"),
    ("GPT partition table", At::End(4096), b"EFI PART"),
    ("LVM", At::Start(0), b"LABELONE"),
    ("LVM", At::Start(512), b"LABELONE"),
    ("LVM", At::Start(1024), b"LABELONE"),
    ("LVM", At::Start(1536), b"LABELONE"),
    ("f2fs", At::Start(1024), &[0x10, 0x20, 0xf5, 0xf2]),
    ("ext2/3/4", At::Start(0x438), &[0x53, 0xef]),
    ("md RAID", At::Start(0), &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("md RAID", At::Start(4096), &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("md RAID", At::End(8192), &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("md RAID", At::End(65536), &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("md RAID", At::End(131_072), &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("DRBD", At::End(4096 - 60), &[0x83, 0x74, 0x02, 0x6d]),
    (
        "bcachefs or bcache",
        At::Start(4096 + 24),
        &[0xc6, 0x85, 0x73, 0xf6],
    ),
    ("swap", At::Start(4086), b"SWAPSPACE2"),
    ("swap", At::Start(4086), b"SWAP-SPACE"),
    ("OCFS2", At::Start(0x2000), b"OCFSV2"),
    ("ISO 9660", At::Start(0x8001), b"CD001"),
    ("gfs2", At::Start(0x10000), &[0x01, 0x16, 0x19, 0x70]),
    ("btrfs", At::Start(0x10040), b"_BHRfS_M"),
    ("VMFS", At::Start(0x10_0000 - 0x1000), &[0x0d, 0xd0, 0x01, 0xc0]),
];

/// First of the places where ZFS keeps uberblocks, their number and distance.
const ZFS: (usize, usize, usize) = (128 << 10, 128, 1024);
const ZFS_MARK: [u8; 8] = 0x00ba_b10c_u64.to_le_bytes();

/// Looks at the first and last MiB of a device.
pub fn recognise(device: &mut dyn Blocks) -> io::Result<Content> {
    let blocks = device.len_bytes() / BLOCK_BYTES as u64;
    let count = blocks.min(END_BLOCKS) as usize;
    let (mut start, mut end) = (Buffer::zeroed(count), Buffer::zeroed(count));
    if count == 0 {
        return Ok(Content::Nothing);
    }
    device.read_at(0, &mut start)?;
    device.read_at((blocks - count as u64) * BLOCK_BYTES as u64, &mut end)?;
    let copies = [(start.block(0), 0), (end.block(count - 1), blocks - 1)];
    for (block, number) in copies {
        if let Ok(superblock) = Superblock::decode(block, number) {
            return Ok(Content::Region {
                identity: superblock.identity,
                label: superblock.label,
            });
        }
    }
    Ok(recognise_marks(&start, &end))
}

/// The same by its first and last MiB.
pub(super) fn recognise_marks(start: &[u8], end: &[u8]) -> Content {
    for (name, at, mark) in MARKS {
        let found = match *at {
            At::Start(offset) => start.get(offset..offset + mark.len()),
            At::End(before) => end
                .len()
                .checked_sub(before)
                .and_then(|offset| end.get(offset..offset + mark.len())),
        };
        if found == Some(*mark) {
            return Content::Known(name);
        }
    }
    let (first, count, distance) = ZFS;
    if (0..count).any(|index| {
        start
            .get(first + index * distance..)
            .is_some_and(|at| at.starts_with(&ZFS_MARK))
    }) {
        return Content::Known("ZFS");
    }
    // The mark of a boot sector is shared by so many that it comes last.
    if start.get(510..512) == Some(&[0x55, 0xaa]) {
        return Content::Known("MBR partition table");
    }
    if is_zero(start) && is_zero(end) {
        Content::Nothing
    } else {
        Content::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    #[test]
    fn every_mark_is_recognised_where_it_lies() {
        for (name, at, mark) in MARKS {
            let (mut start, mut end) = (vec![0; 1 << 20], vec![0; 1 << 20]);
            match *at {
                At::Start(offset) => start[offset..offset + mark.len()].copy_from_slice(mark),
                At::End(before) => {
                    let offset = end.len() - before;
                    end[offset..offset + mark.len()].copy_from_slice(mark);
                }
            }
            assert_eq!(recognise_marks(&start, &end), Content::Known(name));
        }
        let mut start = vec![0; 1 << 20];
        start[(128 << 10) + 5 * 1024..][..8].copy_from_slice(&ZFS_MARK);
        assert_eq!(recognise_marks(&start, &[]), Content::Known("ZFS"));
    }

    #[test]
    fn zeros_are_nothing_and_other_bytes_are_unknown() {
        let device = MemoryDevice::new("m", 3 << 20);
        assert_eq!(recognise(&mut device.open()).unwrap(), Content::Nothing);
        device.corrupt((3 << 20) - 4096, |block| block[7] = 1);
        assert_eq!(recognise(&mut device.open()).unwrap(), Content::Unknown);
        assert_eq!(
            recognise(&mut MemoryDevice::new("e", 0).open()).unwrap(),
            Content::Nothing
        );
    }
}
