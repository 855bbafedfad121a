//! A sorted set of text lines, persistent: the rows of one key, as the text form writes them.
//!
//! Lines are packed into chunks of some 1 KiB, and a red-black tree finds a chunk by its lower bound. A clone shares
//! all of it and costs nothing; inserting or removing a line copies one chunk and the path to it, so the cost grows
//! with the logarithm of the number of rows; writing the text form is copying the chunks in order. A hundred
//! thousand rows of 100 bytes take little more than those ten million bytes.
//!
//! What always holds: chunks are not empty, and have at most `CHUNK_BYTES_MAX` bytes, or `CHUNK_BYTES_BULK` and a line if they were
//! made in bulk, or a few long lines; every line ends in `\n` and contains no other; lines ascend strictly in
//! byte order (as `LC_ALL=C sort` sorts), within and across chunks; a chunk's lower bound is at most its first line
//! and more than the last line of the chunk before it; `measure` is that of all lines.

use super::row::ROW_CHARACTERS_MAX;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Bound;
use rpds::RedBlackTreeMapSync;

/// A chunk is split when it has more bytes than this: the bytes copied by an update, and a size that allocators have at hand.
const CHUNK_BYTES_MAX: usize = 1024;
/// How large chunks are made in bulk. Each costs a bound, a node and a way through the tree: fewer and larger ones are read in half
/// the time, and who reads an image has a node waiting. The first insertions halve those that they find.
const CHUNK_BYTES_BULK: usize = 3 << 10;
/// A chunk with fewer bytes than this is joined to a neighbour if the two fill no more than that, so that the next insertions do
/// not split it again.
const CHUNK_BYTES_MIN: usize = 256;
const CHUNK_BYTES_JOINED: usize = 768;
const _: () = assert!(CHUNK_BYTES_MIN < CHUNK_BYTES_JOINED && CHUNK_BYTES_JOINED < CHUNK_BYTES_MAX);
const _: () = assert!(CHUNK_BYTES_MAX < CHUNK_BYTES_BULK);

/// So many lines, and one in so many, are removed one by one.
const FEW_LINES: usize = 16;
const FEW_SHARE: usize = 16;
/// Lines that stay are gathered to so many bytes.
const KEPT_BYTES: usize = 64 << 10;

/// What the consistency record says about a text: kept up line by line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// How many lines.
    pub rows: u64,
    /// Bytes of the lines with their line breaks.
    pub length_bytes: u64,
    /// Sum of these bytes.
    pub checksum: u64,
}

impl Measure {
    /// Of one line, given without its line break.
    pub fn of_line(line: &str) -> Self {
        Self {
            rows: 1,
            length_bytes: (line.len() as u64).saturating_add(1),
            checksum: byte_sum(line.as_bytes()).saturating_add(b'\n'.into()),
        }
    }
    pub fn add(&mut self, other: Self) {
        self.rows = self.rows.saturating_add(other.rows);
        self.length_bytes = self.length_bytes.saturating_add(other.length_bytes);
        self.checksum = self.checksum.saturating_add(other.checksum);
    }
    pub fn subtract(&mut self, other: Self) {
        self.rows = self.rows.saturating_sub(other.rows);
        self.length_bytes = self.length_bytes.saturating_sub(other.length_bytes);
        self.checksum = self.checksum.saturating_sub(other.checksum);
    }
}

/// The checksum of Fig. 6: the sum of the bytes.
pub fn byte_sum(bytes: &[u8]) -> u64 {
    // Blocks small enough for 32 bits, which the compiler turns into vector instructions.
    bytes
        .chunks(1 << 16)
        .map(|block| u64::from(block.iter().map(|byte| u32::from(*byte)).sum::<u32>()))
        .sum()
}

#[derive(Clone, Debug, Default)]
pub struct Lines {
    /// Lower bound → the lines up to the next bound.
    chunks: RedBlackTreeMapSync<Box<str>, Box<str>>,
    measure: Measure,
}

impl Lines {
    /// Takes lines that are sorted, each with its line break. The caller has checked that.
    pub fn from_sorted_text(text: &str) -> Self {
        let mut bulk = Bulk::default();
        bulk.push(text, memchr::memchr_iter(b'\n', text.as_bytes()).count() as u64);
        bulk.finish()
    }

    pub fn measure(&self) -> Measure {
        self.measure
    }

    /// Whether both are known to be equal because they share everything.
    pub fn is_same(&self, other: &Self) -> bool {
        self.chunks.ptr_eq(&other.chunks)
    }

    pub fn contains(&self, line: &str) -> bool {
        self.chunk_for(line)
            .is_some_and(|(_, chunk)| find(chunk, line).is_ok())
    }

    /// Returns whether the line was not there before.
    pub fn insert(&mut self, line: &str) -> bool {
        let Some((bound, chunk)) = self.chunk_for(line) else {
            // Before every bound: a new first chunk, which takes whatever else comes before the others.
            self.chunks.insert_mut(Box::from(""), with_line("", 0, line));
            self.measure.add(Measure::of_line(line));
            return true;
        };
        let Err(at) = find(chunk, line) else { return false };
        let grown = with_line(chunk, at, line);
        let bound: Box<str> = bound.into();
        match middle(&grown) {
            Some(middle) if grown.len() > CHUNK_BYTES_MAX => {
                let (left, right) = grown.split_at(middle);
                self.put_chunk(right);
                self.chunks.insert_mut(bound, left.into());
            }
            _ => self.chunks.insert_mut(bound, grown),
        }
        self.measure.add(Measure::of_line(line));
        true
    }

    /// Returns whether the line was there.
    pub fn remove(&mut self, line: &str) -> bool {
        let Some((bound, chunk)) = self.chunk_for(line) else {
            return false;
        };
        let Ok(at) = find(chunk, line) else { return false };
        let (before, from) = chunk.split_at(at);
        let after = from.split_once('\n').map_or("", |(_, after)| after);
        let mut shrunk = String::with_capacity(before.len().saturating_add(after.len()));
        shrunk.push_str(before);
        shrunk.push_str(after);
        let bound: Box<str> = bound.into();
        if shrunk.is_empty() {
            self.chunks.remove_mut(&*bound);
        } else if shrunk.len() < CHUNK_BYTES_MIN {
            self.join(bound, shrunk);
        } else {
            self.chunks.insert_mut(bound, shrunk.into_boxed_str());
        }
        self.measure.subtract(Measure::of_line(line));
        true
    }

    /// Removes the lines that start with `prefix` and match, at most the first `most` that start with it; returns how many. Few
    /// are removed one by one. Many are left out of a set that is made anew, which costs the set and not each of them.
    pub fn remove_matching(&mut self, prefix: &str, most: usize, matches: impl Fn(&str) -> bool) -> u64 {
        let few = FEW_LINES.saturating_add(self.measure.rows as usize / FEW_SHARE);
        let found = self.starting_with(prefix).take(most).filter(|line| matches(line));
        let gone: Vec<String> = found.take(few).map(String::from).collect();
        if gone.len() < few {
            for line in &gone {
                self.remove(line);
            }
            return gone.len() as u64;
        }
        let rows = self.measure.rows;
        let mut bulk = Bulk::default();
        let (mut kept, mut kept_rows) = (String::with_capacity(KEPT_BYTES), 0_u64);
        let mut left = most;
        for line in self.iter() {
            if left > 0 && line.starts_with(prefix) {
                left = left.saturating_sub(1);
                if matches(line) {
                    continue;
                }
            }
            kept.push_str(line);
            kept.push('\n');
            kept_rows = kept_rows.saturating_add(1);
            if kept.len() > KEPT_BYTES.saturating_sub(ROW_CHARACTERS_MAX * 4) {
                bulk.push(&kept, kept_rows);
                kept.clear();
                kept_rows = 0;
            }
        }
        bulk.push(&kept, kept_rows);
        *self = bulk.finish();
        rows.saturating_sub(self.measure.rows)
    }

    /// All lines in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.chunks.values().flat_map(|chunk| chunk.lines_of())
    }

    /// How many of the lines the other has not. Both are walked once: asking for each line would take many times as long.
    pub fn count_missing_in(&self, other: &Self) -> u64 {
        if self.chunks.ptr_eq(&other.chunks) {
            return 0;
        }
        let mut others = other.iter().peekable();
        let is_missing = |line: &&str| {
            while others.next_if(|known| known < line).is_some() {}
            others.peek() != Some(line)
        };
        self.iter().filter(is_missing).count() as u64
    }

    /// The lines that start with `prefix`, in order.
    pub fn starting_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.from(prefix).take_while(move |line| line.starts_with(prefix))
    }

    /// The lines from this one on, in order.
    pub fn from<'a>(&'a self, line: &str) -> impl Iterator<Item = &'a str> {
        let (first, in_first) = match self.chunk_for(line) {
            Some((bound, chunk)) => {
                let from = find(chunk, line).unwrap_or_else(|at| at);
                (Bound::Excluded(bound), &chunk[from..])
            }
            None => (Bound::Unbounded, ""),
        };
        let are_all_found = matches!(first, Bound::Excluded(_)) && self.chunks.size() == 1;
        // Few ask for so much that the next chunk has to be found.
        let rest = core::iter::once_with(move || self.chunks.range::<str, _>((first, Bound::Unbounded)))
            .take(usize::from(!are_all_found));
        in_first
            .lines_of()
            .chain(rest.flatten().flat_map(|(_, chunk)| chunk.lines_of()))
    }

    /// The text of all lines, in pieces.
    pub fn pieces(&self) -> impl Iterator<Item = &str> {
        self.chunks.values().map(|chunk| &**chunk)
    }

    /// The same from behind the piece of this bound on; each with its own.
    pub fn pieces_after(&self, bound: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
        let from = bound.map_or(Bound::Unbounded, Bound::Excluded);
        let pieces = self.chunks.range::<str, _>((from, Bound::Unbounded));
        pieces.map(|(bound, chunk)| (&**bound, &**chunk))
    }

    fn chunk_for(&self, line: &str) -> Option<(&str, &str)> {
        // Most keys have few rows, and a look into the tree costs more than what is found there.
        if self.chunks.size() == 1 {
            let only = self.chunks.first().map(|(bound, chunk)| (&**bound, &**chunk));
            return only.filter(|(bound, _)| *bound <= line);
        }
        let mut before = self
            .chunks
            .range::<str, _>((Bound::Unbounded, Bound::Included(line)));
        before.next_back().map(|(bound, chunk)| (&**bound, &**chunk))
    }

    /// Stores lines that have no chunk yet, under their first line.
    fn put_chunk(&mut self, text: &str) {
        let bound = text.lines_of().next().unwrap_or("");
        self.chunks.insert_mut(bound.into(), text.into());
    }

    /// Stores a small chunk, joined to the one after it or before it if they fit into one.
    fn join(&mut self, bound: Box<str>, text: String) {
        let after = self
            .chunks
            .range::<str, _>((Bound::Excluded(&*bound), Bound::Unbounded))
            .next();
        if let Some((next, chunk)) = after
            && text.len().saturating_add(chunk.len()) <= CHUNK_BYTES_JOINED
        {
            let (next, joined) = (next.clone(), [text.as_str(), &**chunk].concat());
            self.chunks.remove_mut(&*next);
            self.chunks.insert_mut(bound, joined.into_boxed_str());
            return;
        }
        let before = self
            .chunks
            .range::<str, _>((Bound::Unbounded, Bound::Excluded(&*bound)))
            .next_back();
        if let Some((previous, chunk)) = before
            && text.len().saturating_add(chunk.len()) <= CHUNK_BYTES_JOINED
        {
            let (previous, joined) = (previous.clone(), [&**chunk, text.as_str()].concat());
            self.chunks.remove_mut(&*bound);
            self.chunks.insert_mut(previous, joined.into_boxed_str());
            return;
        }
        self.chunks.insert_mut(bound, text.into_boxed_str());
    }
}

/// Lines that are made in bulk, of sorted text that comes in pieces of whole lines. The caller has checked that.
#[derive(Debug, Default)]
pub struct Bulk {
    lines: Lines,
    /// The last lines, too few yet for a chunk.
    rest: String,
}

impl Bulk {
    /// So many rows.
    pub fn push(&mut self, mut text: &str, rows: u64) {
        self.lines.measure.add(Measure {
            rows,
            length_bytes: text.len() as u64,
            checksum: byte_sum(text.as_bytes()),
        });
        if !self.rest.is_empty() && self.rest.len().saturating_add(text.len()) > CHUNK_BYTES_BULK {
            let (few, after) = text.split_at(whole_lines(
                text,
                CHUNK_BYTES_BULK.saturating_sub(self.rest.len()),
            ));
            self.rest.push_str(few);
            self.end_chunk();
            text = after;
        }
        while text.len() > CHUNK_BYTES_BULK {
            let (chunk, after) = text.split_at(whole_lines(text, CHUNK_BYTES_BULK));
            self.lines.put_chunk(chunk);
            text = after;
        }
        self.rest.push_str(text);
    }

    fn end_chunk(&mut self) {
        if !self.rest.is_empty() {
            self.lines.put_chunk(&self.rest);
            self.rest.clear();
        }
    }

    pub fn finish(mut self) -> Lines {
        self.end_chunk();
        self.lines
    }
}

/// The lines of the text that fill so many bytes: how many bytes they have. Lines are at most 4 KiB, usually far less.
fn whole_lines(text: &str, bytes_min: usize) -> usize {
    let Some(last) = bytes_min.checked_sub(1) else {
        return 0;
    };
    let from = text.as_bytes().get(last..).unwrap_or_default();
    memchr::memchr(b'\n', from).map_or(text.len(), |at| after_break(last, at))
}

/// Behind the line break that is `at` bytes behind `from`.
const fn after_break(from: usize, at: usize) -> usize {
    from.saturating_add(at).saturating_add(1)
}

impl PartialEq for Lines {
    /// Equal lines; how they are cut into chunks does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.chunks.ptr_eq(&other.chunks) || (self.measure == other.measure && self.iter().eq(other.iter()))
    }
}

impl Eq for Lines {}

trait LinesOf {
    /// The lines without their line breaks. Unlike `str::lines` it cuts at `\n` alone.
    fn lines_of(&self) -> impl Iterator<Item = &str>;
}

impl LinesOf for str {
    fn lines_of(&self) -> impl Iterator<Item = &str> {
        self.split_terminator('\n')
    }
}

/// Where a line starts in a chunk (`Ok`), or would have to be inserted (`Err`): binary search over its bytes.
fn find(chunk: &str, line: &str) -> Result<usize, usize> {
    let bytes = chunk.as_bytes();
    let line = line.as_bytes();
    // Both always stand at the start of a line (or at the end of the chunk).
    let (mut low, mut high) = (0, bytes.len());
    while low < high {
        let probe = low.midpoint(high);
        let before = bytes.get(low..probe).unwrap_or_default();
        let start = memchr::memrchr(b'\n', before).map_or(low, |at| after_break(low, at));
        let from = bytes.get(start..high).unwrap_or_default();
        let len = memchr::memchr(b'\n', from).unwrap_or(from.len());
        match from.get(..len).unwrap_or_default().cmp(line) {
            core::cmp::Ordering::Equal => return Ok(start),
            core::cmp::Ordering::Less => low = after_break(start, len).min(high),
            core::cmp::Ordering::Greater => high = start,
        }
    }
    Err(low)
}

/// The start of a line near the middle of a chunk, if it has more than one line.
fn middle(chunk: &str) -> Option<usize> {
    let bytes = chunk.as_bytes();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let before = memchr::memrchr(b'\n', first).map(|at| after_break(0, at));
    let after = || {
        let (_, second) = second.split_last()?;
        memchr::memchr(b'\n', second).map(|at| after_break(first.len(), at))
    };
    before.or_else(after)
}

/// The chunk with a line inserted; exactly as long as it needs to be.
fn with_line(chunk: &str, at: usize, line: &str) -> Box<str> {
    let (before, after) = chunk.split_at(at);
    let mut grown = String::with_capacity(chunk.len().saturating_add(line.len()).saturating_add(1));
    grown.push_str(before);
    grown.push_str(line);
    grown.push('\n');
    grown.push_str(after);
    grown.into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    fn check(lines: &Lines, model: &BTreeSet<String>) {
        assert!(lines.iter().eq(model.iter().map(String::as_str)));
        let mut measure = Measure::default();
        model.iter().for_each(|line| measure.add(Measure::of_line(line)));
        assert_eq!(lines.measure(), measure);
        let mut last: Option<&str> = None;
        for (bound, chunk) in lines.chunks.iter() {
            let chunk_lines: Vec<_> = chunk.lines_of().collect();
            assert!(chunk.ends_with('\n') && chunk.len() <= CHUNK_BYTES_MAX + 3 * 3004);
            assert!(&**bound <= chunk_lines[0] && last.is_none_or(|last| last < &**bound));
            last = chunk_lines.last().copied();
        }
        let text: String = lines.pieces().collect();
        assert_eq!(Lines::from_sorted_text(&text), *lines);
        let mut bulk = Bulk::default();
        lines
            .iter()
            .for_each(|line| bulk.push(&(String::from(line) + "\n"), 1));
        assert_eq!(bulk.finish(), *lines);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn lines_behave_as_a_sorted_set(steps in proptest::collection::vec(
            (any::<bool>(), "[ab]{0,3}", prop_oneof![Just(0_usize), Just(700), Just(3000)]), 0..200
        )) {
            let mut lines = Lines::default();
            let mut model = BTreeSet::new();
            for (add, name, padding) in steps {
                let line = name + &"x".repeat(padding);
                let shadow = (lines.clone(), model.clone());
                if add {
                    prop_assert_eq!(lines.insert(&line), model.insert(line.clone()));
                } else {
                    prop_assert_eq!(lines.remove(&line), model.remove(&line));
                }
                prop_assert_eq!(lines.contains(&line), add);
                prop_assert!(shadow.0.iter().eq(shadow.1.iter().map(String::as_str)), "the shadow changed");
            }
            check(&lines, &model);
            // Chunks that are made in bulk begin with their first line, and not where they might.
            let bulk = Lines::from_sorted_text(&lines.pieces().collect::<String>());
            for prefix in ["", "a", "ab", "bbb", "c"] {
                let expected: Vec<_> = model.iter().filter(|line| line.starts_with(prefix)).cloned().collect();
                for lines in [&lines, &bulk] {
                    let found = lines.starting_with(prefix).map(String::from).collect::<Vec<_>>();
                    prop_assert_eq!(&found, &expected);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn many_lines_are_removed_as_one_by_one(
            numbers in proptest::collection::btree_set(0..5000_u32, 0..600),
            prefix in prop_oneof![Just(""), Just("K1"), Just("K12"), Just("X")],
            digit in prop_oneof![Just(""), Just("3"), Just("77")],
            most in prop_oneof![Just(usize::MAX), Just(1_usize), Just(100)],
        ) {
            let mut model: BTreeSet<String> = numbers.iter().map(|number| alloc::format!("K{number}")).collect();
            let mut lines = Lines::default();
            model.iter().for_each(|line| assert!(lines.insert(line)));
            let shadow = lines.clone();
            let starting = model.iter().filter(|line| line.starts_with(prefix)).take(most);
            let gone: Vec<String> = starting.filter(|line| line.contains(digit)).cloned().collect();
            prop_assert_eq!(lines.remove_matching(prefix, most, |line| line.contains(digit)), gone.len() as u64);
            prop_assert!(shadow.iter().eq(model.iter().map(String::as_str)), "the shadow changed");
            gone.iter().for_each(|line| assert!(model.remove(line)));
            check(&lines, &model);
        }
    }

    #[test]
    fn removing_most_lines_leaves_few_chunks() {
        let mut lines = Lines::default();
        let mut model = BTreeSet::new();
        for number in 0..5000_u32 {
            // A fixed permutation, so that insertions do not come in order.
            let line = alloc::format!("KEY:{:05}:{}", number.wrapping_mul(2741) % 5000, "v".repeat(80));
            assert_eq!(lines.insert(&line), model.insert(line));
        }
        check(&lines, &model);
        // At least half full on average.
        let bytes = |lines: &Lines| lines.measure().length_bytes as usize;
        let chunks_max = 2 * bytes(&lines) / CHUNK_BYTES_MAX;
        assert!(lines.chunks.size() < chunks_max, "{} chunks", lines.chunks.size());
        let gone: Vec<_> = model
            .iter()
            .filter(|line| !line.contains(":000"))
            .cloned()
            .collect();
        for line in gone {
            assert!(lines.remove(&line) && model.remove(&line));
        }
        check(&lines, &model);
        let chunks_max = bytes(&lines) / CHUNK_BYTES_MIN;
        assert!(
            lines.chunks.size() <= chunks_max,
            "{} chunks",
            lines.chunks.size()
        );
    }
}
