//! What a watcher that follows the files on disk is told.

use super::*;
use crate::history::frame::tests::{position, round};
use crate::history::store::Store;
use ccd_core::database::{Difference, FormatChange, FormatEffect, Key};
use ccd_core::ids::{Epoch, Lineage};
use proptest::prelude::*;

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn walk(trail: &Trail, mut footing: Footing, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        let mut left = count;
        let at_end = trail
            .follow(&mut footing, |step| {
                told.push(match step {
                    Step::Round { updates, .. } => {
                        let numbers = updates.iter().map(|(generation, _)| generation.0.to_string());
                        numbers.collect::<Vec<_>>().join("+")
                    }
                    Step::Missed { after, up_to } => {
                        format!("missed {after}..{}", up_to.stamp.generation)
                    }
                    Step::Diverged { after, up_to } => {
                        format!("diverged {after}..{}", up_to.stamp.generation)
                    }
                });
                left -= 1;
                if left == 0 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .unwrap();
        if at_end {
            return told;
        }
    }
}

/// What is told to whoever comes from there.
fn told(trail: &Trail, from: &str, head: Position) -> String {
    let from: WatchFrom = from.parse().unwrap();
    let (first, footing) = match trail.locate(&from, head).unwrap() {
        Found::At(footing) => (None, footing),
        Found::Missed(after, footing) => (
            Some(format!("missed {after}..{}", footing.position.stamp.generation)),
            footing,
        ),
        Found::Diverged(after, footing) => (
            Some(format!("diverged {after}..{}", footing.position.stamp.generation)),
            footing,
        ),
        Found::NotReached { newest } => return format!("newest is {newest}"),
    };
    let whole = walk(trail, footing, usize::MAX);
    assert_eq!(walk(trail, footing, 1), whole, "one by one");
    let all: Vec<String> = first.into_iter().chain(whole).collect();
    all.join(" ")
}

fn place(seen: u64, round: Position) -> String {
    let seen = Generation(seen);
    WatchPlace { seen, round }.to_string()
}

fn with_epoch(epoch: u64, generation: u64) -> Position {
    let mut position = position(generation);
    position.stamp.epoch = Epoch(epoch);
    position
}

fn other(generation: u64) -> Position {
    let mut position = position(generation);
    position.lineage = Lineage([0xee; 32]);
    position
}

fn batch(first: u64, last: u64) -> Frame {
    let Frame::Round { updates, .. } = round(last, "K:batch") else {
        unreachable!("it is a round");
    };
    Frame::Round {
        next: position(last),
        updates: vec![updates[0].clone(); (last - first + 1) as usize],
    }
}

#[test]
fn who_comes_back_goes_on_behind_what_it_saw() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
    let frames = vec![round(1, "K:1"), round(2, "K:2"), batch(3, 5), round(6, "K:6")];
    store.append(frames).unwrap();
    let trail = Trail::new(folder.path(), CLUSTER);
    let head = position(6);
    for (from, expected) in [
        ("0".to_owned(), "1 2 3+4+5 6"),
        ("1".to_owned(), "2 3+4+5 6"),
        ("3".to_owned(), "4+5 6"),
        ("6".to_owned(), ""),
        ("7".to_owned(), "newest is 6"),
        (place(0, position(0)), "1 2 3+4+5 6"),
        (place(2, position(2)), "3+4+5 6"),
        (place(4, position(5)), "5 6"),
        (place(5, position(5)), "6"),
        (place(6, position(6)), ""),
        // Another history than this one.
        (place(2, other(2)), "diverged 2..6"),
        (place(9, position(9)), "diverged 9..6"),
    ] {
        assert_eq!(told(&trail, &from, head), expected, "{from}");
    }
}

/// The disk is behind what was told from memory, and comes nearer while it is looked at.
#[test]
fn a_place_that_the_disk_has_not_reached_is_no_other_branch_however_near_the_disk_has_come() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
    store.append(vec![round(1, "K:1"), round(2, "K:2")]).unwrap();
    let trail = Trail::new(folder.path(), CLUSTER);
    let found_at_2 = trail.end().unwrap();
    assert!(trail.is_unknown_between(found_at_2, position(6)).unwrap());
    let gap = Frame::Gap {
        after: Generation(3),
        to: position(4),
    };
    // Written between the two looks.
    for (frame, what) in [
        (round(3, "K:3"), "a round"),
        (gap, "a gap"),
        (round(5, "K:5"), "another"),
    ] {
        store.append(vec![frame]).unwrap();
        assert!(
            trail.is_unknown_between(found_at_2, position(6)).unwrap(),
            "{what}"
        );
    }
    let place_6 = WatchPlace {
        seen: Generation(6),
        round: position(6),
    };
    let Found::At(footing) = trail.locate_place(&place_6, position(7)).unwrap() else {
        panic!("it is on its way");
    };
    assert_eq!(footing.seen, Generation(6));
    store.append(vec![round(6, "K:6")]).unwrap();
    assert!(
        trail.is_unknown_between(found_at_2, position(6)).unwrap(),
        "it has come"
    );
    assert!(
        !trail.is_unknown_between(found_at_2, other(6)).unwrap(),
        "another one has come"
    );
    store.append(vec![batch(7, 9)]).unwrap();
    assert!(
        !trail.is_unknown_between(found_at_2, position(8)).unwrap(),
        "the way leads past it"
    );
}

#[test]
fn what_is_not_kept_is_told_as_missed() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
    let gap = |after, to| Frame::Gap {
        after: Generation(after),
        to: position(to),
    };
    let frames = vec![gap(0, 10), round(11, "K:11"), gap(11, 20), round(21, "K:21")];
    store.append(frames).unwrap();
    let trail = Trail::new(folder.path(), CLUSTER);
    for (from, expected) in [
        ("0".to_owned(), "missed 0..10 11 missed 11..20 21"),
        ("5".to_owned(), "missed 5..10 11 missed 11..20 21"),
        ("11".to_owned(), "missed 11..20 21"),
        ("15".to_owned(), "missed 15..20 21"),
        ("20".to_owned(), "21"),
        (place(11, position(11)), "missed 11..20 21"),
        (place(20, position(20)), "21"),
        // In a gap: nobody here knows whether it was on the way, and no override came in between.
        (place(5, position(5)), "missed 5..10 11 missed 11..20 21"),
        (place(15, position(15)), "missed 15..20 21"),
        (place(15, other(15)), "missed 15..20 21"),
        // What is kept says otherwise.
        (place(11, other(11)), "diverged 11..21"),
        (place(21, other(21)), "diverged 21..21"),
    ] {
        assert_eq!(told(&trail, &from, position(21)), expected, "{from}");
    }
    // The node is further than what its disk took.
    assert_eq!(told(&trail, &place(24, position(24)), position(30)), "");
    let overruled = with_epoch(200_000, 21);
    assert_eq!(
        told(&trail, &place(15, position(15)), overruled),
        "diverged 15..21"
    );
}

#[test]
fn a_node_that_lost_its_history_has_missed_what_came_before_and_calls_nothing_a_branch() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
    let trail = Trail::new(folder.path(), CLUSTER);
    // Nothing is written yet: whoever comes waits for it.
    assert_eq!(told(&trail, &place(5, position(5)), position(20)), "");
    let gap = Frame::Gap {
        after: Generation(0),
        to: position(20),
    };
    store.append(vec![gap, round(21, "K:21")]).unwrap();
    assert_eq!(
        told(&trail, &place(5, position(5)), position(21)),
        "missed 5..20 21"
    );
}

#[test]
fn a_branch_that_lost_is_told_to_who_was_on_it_and_to_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
    let lost = |generation| {
        let Frame::Round { updates, .. } = round(generation, "K:lost") else {
            unreachable!("it is a round");
        };
        let next = other(generation);
        Frame::Round { next, updates }
    };
    let replaced = Frame::Gap {
        after: Generation(3),
        to: with_epoch(100_000, 2),
    };
    let frames = vec![round(1, "K:1"), lost(2), lost(3), replaced, round(3, "K:3")];
    store.append(frames).unwrap();
    let trail = Trail::new(folder.path(), CLUSTER);
    for (from, expected) in [
        (place(2, other(2)), "3 diverged 3..2 3"),
        (place(3, other(3)), "diverged 3..2 3"),
        (place(2, position(2)), "3"),
        ("1".to_owned(), "missed 1..2 3"),
        ("2".to_owned(), "3"),
    ] {
        assert_eq!(told(&trail, &from, position(3)), expected, "{from}");
    }
    // A later one whose generations are higher: only the epochs tell.
    let to = with_epoch(300_000, 9);
    store
        .append(vec![Frame::Gap {
            after: Generation(3),
            to,
        }])
        .unwrap();
    assert_eq!(told(&trail, "3", to), "missed 3..9");
    assert_eq!(told(&trail, &place(3, position(3)), to), "diverged 3..9");
}

#[test]
fn many_files_are_one_way_and_one_that_went_or_is_damaged_is_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
    let long = "x".repeat(900);
    for generation in 1..=400 {
        store
            .append(vec![round(generation, &format!("K:{long}"))])
            .unwrap();
    }
    drop(store);
    let trail = Trail::new(folder.path(), CLUSTER);
    let head = position(400);
    let numbers = |from: u64| {
        (from..=400)
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    for from in [0, 1, 69, 70, 71, 200, 399] {
        assert_eq!(told(&trail, &from.to_string(), head), numbers(from + 1));
        assert_eq!(
            told(&trail, &place(from, position(from)), head),
            numbers(from + 1)
        );
    }
    let files = trail.files().unwrap();
    assert!(files.len() > 4, "{files:?}");
    let mut footing = match trail.locate(&WatchFrom::Generation(Generation(0)), head).unwrap() {
        Found::At(footing) => footing,
        other => panic!("{other:?}"),
    };
    trail.follow(&mut footing, |_| ControlFlow::Break(())).unwrap();
    // The budget takes two files from under it.
    for (serial, _) in &files[..2] {
        std::fs::remove_file(segment::history_path(folder.path(), *serial)).unwrap();
    }
    let kept = files[2].1.stamp.generation.0;
    let told = walk(&trail, footing, usize::MAX);
    assert_eq!(told[0], format!("missed 1..{kept}"));
    assert_eq!(told[1..].join(" "), numbers(kept + 1));
    // Damage costs the rest of its file.
    let path = segment::history_path(folder.path(), files[2].0);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let told = walk(&trail, footing, usize::MAX);
    let missed = told.iter().filter(|step| step.starts_with("missed")).count();
    assert_eq!(missed, 2, "{told:?}");
    assert_eq!(told.last().map(String::as_str), Some("400"));
}

/// What a history is made of, in random order.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// An update of this key, with a row of so many bytes.
    Row(&'static str, usize),
    /// The columns of this key change.
    Columns(&'static str),
    /// An update that changes nothing.
    Nothing,
    /// Some generations are missing; or an operator lost a branch of some.
    Gap(u64),
    Lost(u64),
    /// The daemon starts anew; its last file may be torn, or damaged in its middle.
    Restart,
    Torn,
    Damage,
}

fn part() -> impl Strategy<Value = Part> {
    let key = || prop_oneof![5 => Just("A"), 2 => Just("B"), 1 => Just("C")];
    prop_oneof![
        30 => (key(), 10..9_000_usize).prop_map(|(key, len)| Part::Row(key, len)),
        3 => key().prop_map(Part::Columns),
        2 => Just(Part::Nothing),
        2 => (1..4_u64).prop_map(Part::Gap),
        1 => (1..4_u64).prop_map(Part::Lost),
        1 => Just(Part::Restart),
        1 => Just(Part::Torn),
        1 => Just(Part::Damage),
    ]
}

/// Writes it; returns every position that it came by.
fn write(folder: &Path, parts: &[Part]) -> Vec<Position> {
    let mut store = Store::open(folder, CLUSTER, 1 << 20).unwrap();
    let mut head = Position::EMPTY;
    let mut all = vec![head];
    for part in parts {
        let next = |by: u64| with_epoch(head.stamp.epoch.0.max(1), head.stamp.generation.0 + by);
        let frame = match part {
            Part::Row(key, len) => {
                let row = format!("{key}:{}", "x".repeat((*len).min(900)));
                // Larger frames are of several updates.
                let Frame::Round { updates, .. } = round(1, &row) else {
                    unreachable!("it is a round");
                };
                let count = (len / 900 + 1) as u64;
                Frame::Round {
                    next: next(count),
                    updates: vec![updates[0].clone(); count as usize],
                }
            }
            Part::Columns(_) | Part::Nothing => {
                let Frame::Round { mut updates, .. } = round(1, "A:x") else {
                    unreachable!("it is a round");
                };
                let mut effects = Difference::default();
                if let Part::Columns(key) = part {
                    effects.formats_changed.push(FormatChange {
                        key: Key::new(key).unwrap(),
                        from: vec!["a".into()],
                        to: vec!["b".into()],
                    });
                }
                updates[0].effects = crate::history::Effects::Rows(effects);
                let next = next(1);
                Frame::Round { next, updates }
            }
            Part::Gap(by) => Frame::Gap {
                after: head.stamp.generation,
                to: next(*by),
            },
            Part::Lost(by) => {
                let generation = head.stamp.generation.0.saturating_sub(*by);
                let epoch = head.stamp.epoch.0 + 100_001;
                Frame::Gap {
                    after: head.stamp.generation,
                    to: with_epoch(epoch, generation),
                }
            }
            Part::Restart | Part::Torn | Part::Damage => {
                drop(store);
                let serial = segment::serials(folder).unwrap().last().copied();
                if let Some(serial) = serial {
                    let path = segment::history_path(folder, serial);
                    let mut bytes = std::fs::read(&path).unwrap();
                    match part {
                        Part::Torn => bytes.truncate(bytes.len().saturating_sub(5).max(HEAD_BYTES)),
                        Part::Damage if bytes.len() > HEAD_BYTES + 100 => {
                            let middle = (HEAD_BYTES + bytes.len()) / 2;
                            bytes[middle] ^= 1;
                        }
                        _ => {}
                    }
                    std::fs::write(&path, bytes).unwrap();
                }
                store = Store::open(folder, CLUSTER, 1 << 20).unwrap();
                head = store.head();
                all.push(head);
                continue;
            }
        };
        head = frame.next();
        all.push(head);
        store.append(vec![frame]).unwrap();
    }
    all
}

/// What of a way is about these keys, in pieces of so many steps, and where it ends.
fn seen(
    trail: &Trail,
    mut footing: Footing,
    which: Option<Which<'_>>,
    keys: &[&str],
    formats: bool,
    count: usize,
) -> (Vec<String>, Footing) {
    let mut all = Vec::new();
    loop {
        let mut left = count;
        let take = |step: Step| {
            match step {
                Step::Round { updates, .. } => {
                    for (generation, kept) in updates {
                        let changes = kept.effects.keys().into_iter().filter(|change| {
                            keys.contains(&change.key.as_str())
                                && (!formats || change.format != FormatEffect::None)
                        });
                        all.extend(changes.map(|change| format!("{} {generation}", change.key)));
                    }
                }
                Step::Missed { after, up_to } => all.push(format!("missed {after} {up_to:?}")),
                Step::Diverged { after, up_to } => all.push(format!("diverged {after} {up_to:?}")),
            }
            left -= 1;
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let at_end = match which {
            Some(which) => trail.follow_which(&mut footing, which, take).unwrap(),
            None => trail.follow(&mut footing, take).unwrap(),
        };
        if at_end {
            return (all, footing);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_read_by_the_index_is_what_is_read_without(
        parts in prop::collection::vec(part(), 1..60),
        from in 0..60_usize,
        steps in 1..5_usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let all = write(folder.path(), &parts);
        let head = *all.last().unwrap();
        let from = all[from % all.len()];
        let seen_up_to = Generation(from.stamp.generation.0.saturating_sub(from.lineage.0[0] as u64 % 2));
        for from in [
            WatchFrom::Generation(from.stamp.generation.min(head.stamp.generation)),
            WatchFrom::Place(WatchPlace { seen: seen_up_to, round: from }),
        ] {
            let trail = Trail::new(folder.path(), CLUSTER);
            let footing = match trail.locate(&from, head).unwrap() {
                Found::At(footing) | Found::Missed(_, footing) | Found::Diverged(_, footing) => footing,
                Found::NotReached { .. } => continue,
            };
            for keys in [&["A"][..], &["B"], &["A", "C"], &["NONE"], &["A", "B", "C"]] {
                let names = |key: &Key| keys.contains(&key.as_str());
                for (formats, which) in [(false, Which::Keys(&names)), (true, Which::Formats(&names))] {
                    let whole = seen(&trail, footing, None, keys, formats, usize::MAX);
                    for count in [steps, usize::MAX] {
                        let indexed = seen(&trail, footing, Some(which), keys, formats, count);
                        prop_assert_eq!(&indexed, &whole, "{:?} {}", keys, formats);
                    }
                }
            }
        }
    }
}
