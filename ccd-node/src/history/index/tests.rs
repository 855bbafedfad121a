use super::super::frame::tests::{position, round};
use super::super::store::Store;
use super::*;
use ccd_core::ids::Generation;

const CLUSTER: ClusterId = ClusterId([7; 16]);

#[test]
fn an_index_that_is_missing_or_old_is_made_from_the_file_once_and_written_down() {
    let (folder, store) = made();
    let serials = segment::serials(folder.path()).unwrap();
    assert!(serials.len() > 2);
    let full = &serials[..serials.len() - 1];
    let path = |serial: &u64| segment::index_path(folder.path(), *serial);
    let before: Vec<Vec<u8>> = full
        .iter()
        .map(|serial| fs::read(path(serial)).unwrap())
        .collect();
    fs::remove_file(path(&full[0])).unwrap();
    let mut old = before[1].clone();
    old[..MAGIC.len()].copy_from_slice(b"ccdhidx1");
    fs::write(path(&full[1]), old).unwrap();
    let indexes = Indexes::new(folder.path(), CLUSTER);
    for (index, serial) in serials.iter().enumerate() {
        let has_successor = index < full.len();
        indexes
            .of(*serial, has_successor)
            .unwrap()
            .expect("it can be used");
    }
    for (serial, before) in full.iter().zip(&before) {
        assert!(fs::read(path(serial)).unwrap() == *before, "file {serial}");
    }
    assert!(!path(serials.last().unwrap()).exists(), "it is not full");
    // What is of no use any more goes at the next start.
    drop(store);
    fs::write(segment::index_path(folder.path(), 99), b"x").unwrap();
    fs::write(path(&full[0]).with_extension("index.7"), b"x").unwrap();
    Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
    let names = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.contains("index"));
    assert_eq!(names.len(), full.len(), "{names:?}");
}

fn any(_: &Key) -> bool {
    true
}

fn rare(key: &Key) -> bool {
    key.as_str() == "RARE"
}

/// Files of a history with a rare key, and a gap.
fn made() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
    let long = "x".repeat(500);
    for generation in 1..=400 {
        let key = if generation % 100 == 7 { "RARE" } else { "K" };
        store
            .append(vec![round(generation, &format!("{key}:{long}{generation}"))])
            .unwrap();
    }
    let to = position(410);
    let after = Generation(400);
    store.append(vec![Frame::Gap { after, to }]).unwrap();
    (folder, store)
}

#[test]
fn an_index_is_the_same_from_the_writer_from_the_disk_and_from_the_file_itself() {
    let (folder, _store) = made();
    let serials = segment::serials(folder.path()).unwrap();
    assert!(serials.len() > 2, "{serials:?}");
    for serial in &serials[..serials.len() - 1] {
        let written = FileIndex::read(folder.path(), *serial).expect("it was written");
        let mut file = File::open(segment::history_path(folder.path(), *serial)).unwrap();
        let head = segment::read_begins(folder.path(), *serial, CLUSTER)
            .unwrap()
            .unwrap();
        let mut found = FileIndex::empty(head);
        found.follow(&mut file, head).unwrap();
        assert_eq!(written, found, "{serial}");
        assert_eq!(FileIndex::from_bytes(&written.to_bytes()), Some(found));
        let mut bytes = written.to_bytes();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert_eq!(FileIndex::from_bytes(&bytes), None, "{at}");
            bytes[at] ^= 1;
        }
    }
}

#[test]
fn places_are_those_of_the_keys_and_of_gaps_and_frames_are_read_at_them() {
    let (folder, _store) = made();
    let indexes = Indexes::new(folder.path(), CLUSTER);
    let serials = segment::serials(folder.path()).unwrap();
    let mut found = Vec::new();
    let mut count = 0;
    for serial in &serials {
        let index = indexes
            .of(*serial, serial != serials.last().unwrap())
            .unwrap()
            .unwrap();
        let mut window = Window::open(folder.path(), *serial).unwrap().unwrap();
        for at in index.places(Which::Keys(&rare), 0) {
            let (frame, len) = window.frame(u64::from(at)).unwrap().expect("it is whole");
            assert!(len > 12);
            found.push(frame.next().stamp.generation.0);
        }
        count += index.places(Which::Keys(&any), 0).len();
        assert!(index.are_all(Which::Keys(&any)) && !index.are_all(Which::Keys(&rare)));
        assert!(index.places(Which::Keys(&any), index.end_bytes).is_empty());
        assert_eq!(window.frame(index.end_bytes).unwrap(), None);
        assert_eq!(window.frame(3).unwrap(), None);
    }
    assert_eq!(found, [7, 107, 207, 307, 410]);
    assert_eq!(count, 401);
}

#[test]
fn a_file_that_grows_or_is_cut_and_written_anew_is_indexed_as_it_is() {
    let (folder, mut store) = made();
    let indexes = Indexes::new(folder.path(), CLUSTER);
    let serial = *segment::serials(folder.path()).unwrap().last().unwrap();
    let end = |indexes: &Indexes| indexes.of(serial, false).unwrap().unwrap().end;
    assert_eq!(end(&indexes), position(410));
    store.append(vec![round(411, "K:a")]).unwrap();
    assert_eq!(end(&indexes), position(411));
    // As after a write that the disk took in part: what was appended does not count.
    let path = segment::history_path(folder.path(), serial);
    let bytes = std::fs::read(&path).unwrap();
    let index = indexes.of(serial, false).unwrap().unwrap();
    let (last, _) = index.last.expect("it has frames");
    let mut other = bytes[..last as usize].to_vec();
    other.extend(round(411, "RARE:b").encode(1 << 20));
    other.extend(round(412, "K:c").encode(1 << 20));
    std::fs::write(&path, &other).unwrap();
    let anew = indexes.of(serial, false).unwrap().unwrap();
    assert_eq!(anew.end, position(412));
    assert_eq!(anew.places(Which::Keys(&rare), u64::from(last)), [last]);
    assert!(indexes.of(999, false).unwrap().is_none());
}

#[test]
fn what_is_kept_in_memory_is_bounded() {
    let indexes = Indexes::new(Path::new("/nowhere"), CLUSTER);
    let mut large = FileIndex::empty(position(0));
    large.gaps = vec![(0, position(1)); CACHE_BYTES_MAX / size_of::<(u32, Position)>() / 3];
    let large = Arc::new(large);
    for serial in 0..10 {
        indexes.keep(serial, &large, true);
    }
    let kept = indexes.kept();
    assert!(
        kept.bytes <= CACHE_BYTES_MAX && kept.files.len() <= 3,
        "{}",
        kept.files.len()
    );
}
