//! What happens to a region while it is in use, where nobody reads: each is found by the surveys that are made anyway.

mod support;

use ccd_core::replica::{RegionDamage, ReplicaAnswer, ReplicaError, ReplicaOp};
use ccd_disk::device::{BLOCK_BYTES, MemoryDevice};
use ccd_disk::format::geometry::CONTROL_KINDS;
use ccd_disk::region::handle::Handle;
use ccd_disk::region::label::Label;
use ccd_disk::region::look::find_all;
use ccd_disk::{Access, MkfsOptions, RawDevice, Region, RegionId, create};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use support::{device, identity, open, options};

/// Surveys of a minute, at ten a second.
const MINUTE: usize = 600;

fn survey(region: &mut Region) -> Result<Option<RegionDamage>, ReplicaError> {
    match region.execute(ReplicaOp::Survey)? {
        ReplicaAnswer::Survey(survey) => Ok(survey.damage),
        other => panic!("{other:?}"),
    }
}

/// What a minute of surveys has found at its end.
fn found(region: &mut Region) -> Result<Option<RegionDamage>, ReplicaError> {
    (0..MINUTE).map(|_| survey(region)).last().unwrap_or(Ok(None))
}

/// The text of the damage, which somebody else did or not.
fn damage(region: &mut Region, is_overwritten: bool) -> String {
    let found = found(region)
        .expect("it can be used")
        .expect("something is found");
    assert_eq!(found.is_overwritten, is_overwritten, "{}", found.text);
    found.text
}

fn failure(region: &mut Region) -> String {
    let failed = (0..MINUTE).find_map(|_| survey(region).err());
    failed.expect("it is not used any more").text
}

fn garbage(device: &MemoryDevice, block: u64) {
    device.corrupt(block * BLOCK_BYTES as u64, |bytes| bytes.fill(0x5A));
}

fn last(region: &Region) -> u64 {
    region.superblock().geometry.last_block()
}

#[test]
fn a_whole_region_has_no_findings() {
    let device = device();
    let mut region = open(&device, 0);
    for _ in 0..5 {
        assert_eq!(found(&mut region), Ok(None));
    }
}

#[test]
fn a_superblock_that_is_gone_is_told_of_until_it_is_written_anew() {
    for which in ["first", "last"] {
        let device = device();
        let mut region = open(&device, 0);
        let block = if which == "first" { 0 } else { last(&region) };
        let mut whole = [0; BLOCK_BYTES];
        device.corrupt(block * BLOCK_BYTES as u64, |bytes| {
            whole = *bytes;
            bytes.fill(0);
        });
        let text = damage(&mut region, true);
        assert!(
            text.starts_with(&format!("its {which} superblock is gone")),
            "{text}"
        );
        device.corrupt(block * BLOCK_BYTES as u64, |bytes| *bytes = whole);
        let gone: Vec<_> = (0..MINUTE).map(|_| survey(&mut region).unwrap()).collect();
        assert_eq!(gone.last(), Some(&None));
    }
}

#[test]
fn without_either_superblock_a_region_is_not_used() {
    let device = device();
    let mut region = open(&device, 0);
    for block in [0, last(&region)] {
        device.corrupt(block * BLOCK_BYTES as u64, |bytes| bytes.fill(0));
    }
    let text = failure(&mut region);
    assert!(
        text.contains("CCD-2017") && text.contains("its first superblock is gone (zero)"),
        "{text}"
    );
}

#[test]
fn a_region_that_is_made_anew_below_one_in_use_is_not_used() {
    let device = device();
    let mut region = open(&device, 0);
    let anew = MemoryDevice::new("memory", options().len_bytes().expect("it is small"));
    let other = MkfsOptions {
        region: RegionId([0x4F; 16]),
        ..options()
    };
    create(Box::new(anew.open()), &other).expect("it is made");
    device.overwrite(&anew);
    let text = failure(&mut region);
    assert!(text.contains("is another region's"), "{text}");
}

#[test]
fn what_somebody_else_wrote_into_an_area_is_found_and_named() {
    let device = device();
    let mut region = open(&device, 0);
    let geometry = region.superblock().geometry;
    let begin = geometry.control_all() + geometry.control_all_blocks();
    let end = geometry.last_block() - 300;
    for block in begin..end {
        garbage(&device, block);
    }
    let text = damage(&mut region, true);
    assert!(
        text.contains("(checkpoint of node 0) holds what ccd did not write"),
        "{text}"
    );
    assert!(text.contains("; and others"), "{text}");
    // A twentieth of each area, with zeros elsewhere.
    for block in begin..end {
        device.corrupt(block * BLOCK_BYTES as u64, |bytes| {
            bytes.fill(if block % 20 == 0 { 0x5A } else { 0 });
        });
    }
    let text = damage(&mut open(&device, 1), true);
    assert!(text.contains("holds what ccd did not write"), "{text}");
}

#[test]
fn what_somebody_else_wrote_over_votes_is_found_until_it_is_written_anew() {
    for (name, indexes) in CONTROL_KINDS {
        for (index, node) in indexes.flat_map(|index| [(index, 0), (index, 1)]) {
            let device = device();
            let mut region = open(&device, 0);
            assert_eq!(found(&mut region), Ok(None));
            let block = region.superblock().geometry.control(support::node(node)) + index;
            garbage(&device, block);
            let text = damage(&mut region, true);
            let expected = format!("block {block} ({name} of node {node}) holds what ccd did not write");
            assert_eq!(text, expected);
            device.corrupt(block * BLOCK_BYTES as u64, |bytes| bytes.fill(0));
            assert_eq!(found(&mut region), Ok(None));
        }
    }
}

#[test]
fn a_block_of_another_region_or_place_is_found() {
    let device = device();
    let mut region = open(&device, 0);
    let geometry = region.superblock().geometry;
    let (begin, end) = (
        geometry.control_all() + geometry.control_all_blocks(),
        geometry.last_block() - 300,
    );
    let mut superblock = [0; BLOCK_BYTES];
    device.corrupt(0, |bytes| superblock = *bytes);
    for block in begin..end {
        device.corrupt(block * BLOCK_BYTES as u64, |bytes| *bytes = superblock);
    }
    let text = damage(&mut region, true);
    assert!(text.contains("holds a block of another place"), "{text}");
}

#[test]
fn what_a_power_cut_left_half_written_is_no_finding() {
    let device = device();
    let mut region = open(&device, 0);
    let geometry = region.superblock().geometry;
    let begin = geometry.control_all() + geometry.control_all_blocks();
    let mut superblock = [0; BLOCK_BYTES];
    device.corrupt(0, |bytes| superblock = *bytes);
    for block in begin..geometry.last_block() - 300 {
        // The first sector old or new, the others the other way round.
        device.corrupt(block * BLOCK_BYTES as u64, |bytes| {
            let (one, rest) = bytes.split_at_mut(512);
            if block % 2 == 0 {
                one.copy_from_slice(&superblock[..512]);
                rest.fill(0x77);
            } else {
                rest.fill(0x77);
            }
        });
    }
    assert_eq!(found(&mut region), Ok(None));
}

#[test]
fn a_superblock_that_cannot_be_read_for_a_moment_is_no_finding_that_stays() {
    let device = device();
    let mut region = open(&device, 0);
    device.fail_reads(0..1);
    let text = damage(&mut region, false);
    assert!(text.contains("its first superblock cannot be read"), "{text}");
    device.fail_reads(0..0);
    assert_eq!(found(&mut region), Ok(None));
    // A path that is gone is no region that is gone.
    device.fail_reads(0..4096);
    let text = failure(&mut region);
    assert!(text.contains("CCD-2001"), "{text}");
}

#[test]
fn a_block_that_cannot_be_read_is_found() {
    let device = device();
    let mut region = open(&device, 0);
    let journal = region.superblock().geometry.journal(support::node(1));
    device.fail_reads(journal..journal + 200);
    let text = damage(&mut region, false);
    assert!(text.contains("(journal of node 1) cannot be read"), "{text}");
}

/// A region in a file, as one that stands for a shared disk.
fn in_file(path: &Path) -> Region {
    let device = RawDevice::create_file(path, 16 << 20).expect("a new file");
    create(Box::new(device), &options()).expect("a region");
    let device = RawDevice::open(path, Access::Shared).expect("a device");
    Region::open(Box::new(device), identity(0)).expect("the region")
}

#[test]
fn a_device_that_was_cut_short_in_use_is_not_used() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("disk");
    let mut region = in_file(&path);
    assert_eq!(found(&mut region), Ok(None));
    OpenOptions::new().write(true).open(&path)?.set_len(9 << 20)?;
    let text = failure(&mut region);
    assert!(
        text.contains("CCD-2015") && text.contains("has 9437184 bytes"),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_name_that_leads_to_another_device_ends_the_use_and_one_that_leads_nowhere_is_told() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("disk");
    let mut region = in_file(&path);
    let aside = folder.path().join("aside");
    fs::rename(&path, &aside)?;
    let text = damage(&mut region, false);
    assert!(text.starts_with("its name leads nowhere (No such file"), "{text}");
    fs::copy(&aside, &path)?;
    let text = failure(&mut region);
    assert!(
        text.contains("CCD-2017") && text.contains("leads to another disk"),
        "{text}"
    );
    // The same one under its name again is used as before.
    fs::rename(&aside, &path)?;
    let after = (0..MINUTE).map(|_| survey(&mut region)).last();
    assert_eq!(after, Some(Ok(None)));
    Ok(())
}

/// Neither the kernel's cache nor the handle's own hides what is written below it.
#[test]
fn what_is_written_to_the_file_itself_is_found() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("disk");
    let mut region = in_file(&path);
    let geometry = region.superblock().geometry;
    let begin = (geometry.control_all() + geometry.control_all_blocks()) * BLOCK_BYTES as u64;
    let end = geometry.last_block() * BLOCK_BYTES as u64;
    let file = OpenOptions::new().write(true).open(&path)?;
    file.write_all_at(&vec![0x33; (end - begin) as usize], begin)?;
    let text = damage(&mut region, true);
    assert!(text.contains("holds what ccd did not write"), "{text}");
    Ok(())
}

#[test]
fn a_check_looks_at_every_block() {
    let device = device();
    let geometry = open(&device, 0).superblock().geometry;
    let journal = geometry.journal(support::node(1));
    garbage(&device, journal);
    garbage(&device, journal + 7);
    let mut handle = Handle::new(Box::new(device.open()));
    let label = Label::read(&mut handle).expect("it is a region");
    let found = find_all(&mut handle, &label.superblock);
    let [strange] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!((strange.node, strange.name), (support::node(1), "journal"));
    assert_eq!((strange.first, strange.count), (journal, 2));
}
