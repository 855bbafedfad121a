//! What clients did and heard, in the order of the world: the input of the linearizability checker.
//!
//! The data model is small on purpose, so that checking is cheap and misses nothing. Each key of the database is an
//! object of its own; its rows are `(register, value)` and every value is written by one operation only.

/// One row of a key: register and value.
pub type Cell = (u8, u32);

/// What a key holds. The checker copies it for every choice that it tries, so it is one small piece of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cells(Vec<Cell>);

impl Cells {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    pub fn iter(&self) -> core::slice::Iter<'_, Cell> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// False if it was there.
    pub fn insert(&mut self, cell: Cell) -> bool {
        let place = self.0.binary_search(&cell);
        if let Err(index) = place {
            self.0.insert(index, cell);
        }
        place.is_err()
    }

    /// False if it was not there.
    pub fn remove(&mut self, cell: &Cell) -> bool {
        let place = self.0.binary_search(cell);
        if let Ok(index) = place {
            self.0.remove(index);
        }
        place.is_ok()
    }
}

impl FromIterator<Cell> for Cells {
    fn from_iter<I: IntoIterator<Item = Cell>>(cells: I) -> Self {
        let mut cells: Vec<Cell> = cells.into_iter().collect();
        cells.sort_unstable();
        cells.dedup();
        Self(cells)
    }
}

/// Place in the one order in which the world saw calls and returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

/// What a client asks of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Adds a row; refused if it is there.
    Add { cell: Cell },
    /// One transaction that adds a row to two registers.
    AddPair { registers: (u8, u8), value: u32 },
    /// One transaction: removes all rows of the register (refused if there are none), adds one.
    Replace { cell: Cell },
    /// Replaces one row by another if it is there; a precondition.
    Exchange { from: Cell, to: Cell },
    /// Removes all rows of the register; refused if there are none.
    Clear { register: u8 },
    /// Strict query: one register, or the whole key.
    Read { register: Option<u8> },
}

/// What the client heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Done; how many rows were removed, if the answer said so.
    Applied { removed: Option<u64> },
    /// Refused by what the database held: nothing changed.
    Refused,
    /// The answer to a read.
    Rows(Cells),
    /// It may be done, now, later or never.
    Unknown,
}

/// One operation from call to return. Operations that certainly did nothing (refused because the node did not
/// serve, for instance) are not part of a history: what they would have written must never be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which key.
    pub object: usize,
    pub called: Instant,
    /// Ignored if the outcome is unknown.
    pub returned: Instant,
    pub call: Call,
    pub heard: Heard,
}

impl<const COUNT: usize> From<[Cell; COUNT]> for Cells {
    fn from(cells: [Cell; COUNT]) -> Self {
        cells.into_iter().collect()
    }
}

impl Call {
    /// What the operation makes of the state, and how many rows it removes; `None` if the state refuses it.
    pub fn apply(&self, cells: &Cells) -> Option<(Cells, u64)> {
        let mut next = cells.clone();
        match *self {
            Self::Add { cell } => next.insert(cell).then_some((next, 0)),
            Self::AddPair { registers, value } => {
                let added = next.insert((registers.0, value)) && next.insert((registers.1, value));
                added.then_some((next, 0))
            }
            Self::Replace { cell } => {
                let removed = remove_register(&mut next, cell.0);
                (removed > 0 && next.insert(cell)).then_some((next, removed))
            }
            Self::Exchange { from, to } => (next.remove(&from) && next.insert(to)).then_some((next, 1)),
            Self::Clear { register } => {
                let removed = remove_register(&mut next, register);
                (removed > 0).then_some((next, removed))
            }
            Self::Read { .. } => Some((next, 0)),
        }
    }

    /// What a read of this state answers.
    pub fn answer(&self, cells: &Cells) -> Cells {
        match *self {
            Self::Read {
                register: Some(register),
            } => cells.iter().filter(|cell| cell.0 == register).copied().collect(),
            _ => cells.clone(),
        }
    }
}

fn remove_register(cells: &mut Cells, register: u8) -> u64 {
    let before = cells.len();
    cells.0.retain(|cell| cell.0 != register);
    (before - cells.len()) as u64
}
