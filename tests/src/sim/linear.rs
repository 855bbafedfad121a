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
        // Most of what nobody ever saw never happened: an order without it is an order.
        let without: Vec<&Operation> = operations
            .iter()
            .filter(|operation| !is_unseen(operation))
            .collect();
        if matches!(search(&without), Found::Order) {
            continue;
        }
        let all: Vec<&Operation> = operations.iter().collect();
        match search(&all) {
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
    /// Operations that may come next, the last to be tried first.
    candidates: Vec<usize>,
}

fn search(operations: &[&Operation]) -> Found {
    let mut seen: HashSet<(Done, Cells)> = HashSet::new();
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
        let Some(cells) = explain(operations[index], &top.cells) else {
            continue;
        };
        let mut done = top.done.clone();
        done[index / 64] |= 1 << (index % 64);
        if !seen.insert((done.clone(), cells.clone())) {
            continue;
        }
        if seen.len() > CONFIGURATIONS_MAX {
            return Found::Limit;
        }
        match frame(operations, done, cells, &mut deepest) {
            Some(next) => stack.push(next),
            None => return Found::Order,
        }
    }
    Found::Nothing { stuck: deepest.1 }
}

/// The choices after these operations; `None` if everything that returned is in order.
fn frame(operations: &[&Operation], done: Done, cells: Cells, deepest: &mut (usize, usize)) -> Option<Frame> {
    let open = |index: &usize| !is_done(&done, *index);
    let definite = |index: &usize| operations[*index].heard != Heard::Unknown;
    // Whatever returned first among what is left bounds which calls can come before it.
    let next_return = (0..operations.len())
        .filter(|index| open(index) && definite(index))
        .min_by_key(|index| operations[*index].returned)?;
    let bound: Instant = operations[next_return].returned;
    let depth: usize = done.iter().map(|word| word.count_ones() as usize).sum();
    if depth >= deepest.0 {
        *deepest = (depth, next_return);
    }
    let mut candidates: Vec<usize> = (0..operations.len())
        .take_while(|index| operations[*index].called < bound)
        .filter(open)
        .collect();
    // Tried from the back: first what returned, the earliest return first; unknown outcomes only when nothing else fits.
    candidates.sort_by_key(|index| match operations[*index].heard {
        Heard::Unknown => (0, operations[*index].called),
        _ => (1, Instant(u64::MAX - operations[*index].returned.0)),
    });
    Some(Frame {
        done,
        cells,
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
