//! Is there one order of all operations that every client could have seen? (Herlihy and Wing; the search is Wing
//! and Gong's with Lowe's memory of visited configurations.)
//!
//! Objects are checked one by one, which is sound because linearizability is local. The checker trusts nothing
//! the servers say about generations or epochs: only calls, returns and rows.

use super::history::{Call, Cells, Heard, Instant, Operation};
use std::collections::{HashMap, HashSet};

/// Most configurations that are looked at for one object. Histories of a healthy system need a few per operation.
pub const CONFIGURATIONS_MAX: usize = 300_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// No order explains this object; the operation is the first that no order could reach.
    Violation {
        object: usize,
        stuck: Box<Operation>,
    },
    /// Not decided within [`CONFIGURATIONS_MAX`].
    TooHard {
        object: usize,
    },
}

/// Checks a whole history; every object starts empty.
pub fn check(history: &[Operation]) -> Verdict {
    let objects = history
        .iter()
        .map(|operation| operation.object + 1)
        .max()
        .unwrap_or(0);
    for object in 0..objects {
        let mut operations: Vec<Operation> = history
            .iter()
            .filter(|operation| operation.object == object)
            .cloned()
            .collect();
        operations.sort_by_key(|operation| operation.called);
        settle_what_was_seen(&mut operations);
        let named = Named::of(&operations);
        // Most of what nobody ever saw never happened: an order without it is an order.
        let without: Vec<&Operation> = operations
            .iter()
            .filter(|operation| !is_unseen(operation))
            .collect();
        if matches!(search(&without, &named), Found::Order) {
            continue;
        }
        let all: Vec<&Operation> = operations.iter().collect();
        match search(&all, &named) {
            Found::Order => {}
            Found::Nothing { stuck } => {
                let stuck = Box::new(all[stuck].clone());
                return Verdict::Violation { object, stuck };
            }
            Found::Limit => return Verdict::TooHard { object },
        }
    }
    Verdict::Linearizable
}

/// Every value has one writer. So an operation of unknown outcome whose value somebody saw was done, and that before
/// the first who saw it had returned.
fn settle_what_was_seen(operations: &mut [Operation]) {
    let mut first_seen: HashMap<u32, Instant> = HashMap::new();
    for operation in operations.iter() {
        let values: Vec<u32> = match (&operation.heard, &operation.call) {
            (Heard::Rows(cells), _) => cells.iter().map(|cell| cell.1).collect(),
            (Heard::Applied { .. }, Call::Exchange { from, .. }) => vec![from.1],
            _ => Vec::new(),
        };
        for value in values {
            let first = first_seen.entry(value).or_insert(operation.returned);
            *first = operation.returned.min(*first);
        }
    }
    for operation in operations
        .iter_mut()
        .filter(|operation| operation.heard == Heard::Unknown)
    {
        let seen = written_value(&operation.call).and_then(|value| first_seen.get(&value));
        // Seen before it was called: left as it is, for the search to find that nothing explains it.
        if let Some(returned) = seen.filter(|returned| **returned > operation.called) {
            operation.returned = *returned;
            operation.heard = Heard::Applied { removed: None };
        }
    }
}

/// Values that some answer showed, or that some call asks for by name. All others are only ever counted.
#[derive(Default)]
struct Named {
    /// Values are small numbers: bit `value % 64` of word `value / 64`. Every configuration asks for all of its values.
    words: Vec<u64>,
}

impl Named {
    fn of(operations: &[Operation]) -> Self {
        let mut named = Self::default();
        for operation in operations {
            if let Heard::Rows(cells) = &operation.heard {
                cells.iter().for_each(|cell| named.insert(cell.1));
            }
            if let Call::Exchange { from, .. } = operation.call {
                named.insert(from.1);
            }
        }
        named
    }

    fn insert(&mut self, value: u32) {
        let word = value as usize / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (value % 64);
    }

    fn contains(&self, value: u32) -> bool {
        let word = self.words.get(value as usize / 64);
        word.is_some_and(|word| word & (1 << (value % 64)) != 0)
    }
}

/// What stands for a value that is only ever counted.
const ANY: u32 = u32::MAX;

/// For each operation of unknown outcome the one before it that would do the same, but for a value that is only ever
/// counted: whichever of them was done, it may as well have been the one that was called first.
fn twins(operations: &[&Operation], named: &Named) -> Vec<Option<usize>> {
    let mut last: Vec<(Call, usize)> = Vec::new();
    let mut twins = vec![None; operations.len()];
    for (index, operation) in operations.iter().enumerate() {
        let unnamed = written_value(&operation.call).is_none_or(|value| !named.contains(value));
        if operation.heard != Heard::Unknown || !unnamed {
            continue;
        }
        let mut call = operation.call.clone();
        match &mut call {
            Call::Add { cell } | Call::Replace { cell } | Call::Exchange { to: cell, .. } => cell.1 = ANY,
            Call::AddPair { value, .. } => *value = ANY,
            Call::Clear { .. } | Call::Read { .. } => {}
        }
        match last.iter_mut().find(|known| known.0 == call) {
            Some(known) => {
                twins[index] = Some(known.1);
                known.1 = index;
            }
            None => last.push((call, index)),
        }
    }
    twins
}

fn is_unseen(operation: &Operation) -> bool {
    operation.heard == Heard::Unknown && written_value(&operation.call).is_some()
}

fn written_value(call: &Call) -> Option<u32> {
    match *call {
        Call::Add { cell } | Call::Replace { cell } | Call::Exchange { to: cell, .. } => Some(cell.1),
        Call::AddPair { value, .. } => Some(value),
        Call::Clear { .. } | Call::Read { .. } => None,
    }
}

enum Found {
    Order,
    Nothing { stuck: usize },
    Limit,
}

/// Which operations have been put in order so far.
type Done = Vec<u64>;

fn is_done(done: &Done, index: usize) -> bool {
    done[index / 64] & (1 << (index % 64)) != 0
}

/// One choice of the search that can be taken back.
struct Frame {
    done: Done,
    cells: Cells,
    /// The operation before this choice and the state before it, if its outcome is unknown.
    unknown: Option<(usize, Cells)>,
    /// Operations that may come next, the last to be tried first.
    candidates: Vec<usize>,
}

impl Frame {
    /// Whether this operation, which leads to these cells, could as well have come before the one of unknown outcome that
    /// was put before it. Then it need not be tried here: whatever is unknown comes as late as it can, directly before
    /// what needs it, or never; and of two unknown ones that do not need each other the first called comes first.
    fn could_come_before(&self, operations: &[&Operation], index: usize, cells: &Cells) -> bool {
        let Some((unknown, before)) = &self.unknown else {
            return false;
        };
        if operations[index].heard == Heard::Unknown && index > *unknown {
            return false;
        }
        explain(operations[index], before)
            .and_then(|between| explain(operations[*unknown], &between))
            .is_some_and(|after| after == *cells)
    }
}

fn search(operations: &[&Operation], named: &Named) -> Found {
    let twins = twins(operations, named);
    let mut seen: HashSet<u128> = HashSet::new();
    let done = vec![0; operations.len().div_ceil(64)];
    let mut deepest = (0, 0);
    let Some(first) = frame(operations, done, Cells::new(), &mut deepest) else {
        return Found::Order;
    };
    let mut stack = vec![first];
    while let Some(top) = stack.last_mut() {
        let Some(index) = top.candidates.pop() else {
            stack.pop();
            continue;
        };
        if twins[index].is_some_and(|twin| !is_done(&top.done, twin)) {
            continue;
        }
        let Some(cells) = explain(operations[index], &top.cells) else {
            continue;
        };
        if top.could_come_before(operations, index, &cells) {
            continue;
        }
        // What changes nothing, and can come here, may come here: if it comes later in some order, that order holds as
        // well with it here. So nothing else needs to be tried.
        if operations[index].heard != Heard::Unknown && cells == top.cells {
            top.candidates.clear();
        }
        let mut done = top.done.clone();
        done[index / 64] |= 1 << (index % 64);
        let unknown = (operations[index].heard == Heard::Unknown).then(|| (index, top.cells.clone()));
        if !seen.insert(fingerprint(&done, &cells, unknown.as_ref(), named)) {
            continue;
        }
        if seen.len() > CONFIGURATIONS_MAX {
            return Found::Limit;
        }
        match frame(operations, done, cells, &mut deepest) {
            Some(next) => stack.push(Frame { unknown, ..next }),
            None => return Found::Order,
        }
    }
    Found::Nothing { stuck: deepest.1 }
}

/// Two of the at most [`CONFIGURATIONS_MAX`] configurations of a search have the same one with a chance of less than
/// 2^-80; the same configurations have the same one always.
fn fingerprint(done: &Done, cells: &Cells, unknown: Option<&(usize, Cells)>, named: &Named) -> u128 {
    let of_cells = |cells: &Cells| -> Vec<u64> {
        let word = |(register, value): &(u8, u32)| {
            let value = if named.contains(*value) { *value } else { ANY };
            u64::from(*register) << 32 | u64::from(value)
        };
        let mut words: Vec<u64> = cells.iter().map(word).collect();
        words.sort_unstable();
        words
    };
    let (last, before) = unknown.map_or((u64::MAX, Vec::new()), |(index, before)| {
        (*index as u64, of_cells(before))
    });
    // Lengths apart, so that no two parts are taken for each other.
    let lengths = (cells.len() as u64) << 32 | before.len() as u64;
    let words = (done.iter().copied())
        .chain([lengths, last])
        .chain(of_cells(cells))
        .chain(before);
    words.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash: u128, word| {
        let mixed = (hash ^ u128::from(word)).wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645);
        mixed ^ mixed >> 64
    })
}

/// The choices after these operations; `None` if everything that returned is in order.
fn frame(operations: &[&Operation], done: Done, cells: Cells, deepest: &mut (usize, usize)) -> Option<Frame> {
    let open = |index: &usize| !is_done(&done, *index);
    let definite = |index: &usize| operations[*index].heard != Heard::Unknown;
    // Whatever returned first among what is left bounds which calls can come before it.
    let next_return = (0..operations.len())
        .skip(done.iter().take_while(|word| **word == u64::MAX).count() * 64)
        .filter(|index| open(index) && definite(index))
        .min_by_key(|index| operations[*index].returned)?;
    let bound: Instant = operations[next_return].returned;
    let depth: usize = done.iter().map(|word| word.count_ones() as usize).sum();
    if depth >= deepest.0 {
        *deepest = (depth, next_return);
    }
    let mut candidates: Vec<usize> = (0..operations.len())
        .skip(done.iter().take_while(|word| **word == u64::MAX).count() * 64)
        .take_while(|index| operations[*index].called < bound)
        .filter(open)
        .collect();
    // Tried from the back: first what changes nothing, then what returned, the earliest return first; unknown outcomes
    // only when nothing else fits.
    candidates.sort_by_key(|index| {
        let operation = operations[*index];
        match operation.heard {
            Heard::Unknown => (0, operation.called),
            Heard::Applied { .. } => (1, Instant(u64::MAX - operation.returned.0)),
            Heard::Rows(_) | Heard::Refused => (2, Instant(u64::MAX - operation.returned.0)),
        }
    });
    Some(Frame {
        done,
        cells,
        unknown: None,
        candidates,
    })
}

/// The state after the operation if it could have happened here and been answered as it was.
fn explain(operation: &Operation, cells: &Cells) -> Option<Cells> {
    let applied = operation.call.apply(cells);
    match (&operation.heard, &operation.call) {
        (Heard::Rows(rows), Call::Read { .. }) => {
            (operation.call.answer(cells) == *rows).then(|| cells.clone())
        }
        (Heard::Applied { removed }, _) => {
            let (next, count) = applied?;
            removed.is_none_or(|removed| removed == count).then_some(next)
        }
        (Heard::Refused, _) => applied.is_none().then(|| cells.clone()),
        (Heard::Unknown, _) => applied.map(|(next, _)| next),
        (Heard::Rows(_), _) => None,
    }
}
