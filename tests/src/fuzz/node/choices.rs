//! The bytes of an input as choices, and what values were seen in real messages: an epoch is likely to mean something if a node
//! has said it.

use std::collections::{BTreeMap, VecDeque};

/// Read from the front. When there are none left, every choice is the first one.
#[derive(Debug)]
pub struct Choices<'a> {
    data: &'a [u8],
}

impl<'a> Choices<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { data }
    }

    pub fn is_over(&self) -> bool {
        self.data.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.data.split_first() else {
            return 0;
        };
        self.data = rest;
        *first
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    /// Once in so many times.
    pub fn rarely(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    pub fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }
}

/// Values of one name that are kept.
const KEPT: usize = 24;

/// What was seen, by the name of its type or field.
#[derive(Debug, Default)]
pub struct Seen {
    numbers: BTreeMap<&'static str, VecDeque<u128>>,
    texts: BTreeMap<&'static str, VecDeque<String>>,
    bytes: BTreeMap<&'static str, VecDeque<Vec<u8>>>,
}

impl Seen {
    pub fn number(&mut self, name: &'static str, number: u128) {
        keep(self.numbers.entry(name).or_default(), number);
    }

    pub fn text(&mut self, name: &'static str, text: &str) {
        keep(self.texts.entry(name).or_default(), text.to_owned());
    }

    pub fn bytes(&mut self, name: &'static str, bytes: &[u8]) {
        keep(self.bytes.entry(name).or_default(), bytes.to_vec());
    }

    pub fn a_number(&self, name: &str, choices: &mut Choices<'_>) -> Option<u128> {
        pick(self.numbers.get(name)?, choices)
    }

    pub fn a_text(&self, name: &str, choices: &mut Choices<'_>) -> Option<String> {
        pick(self.texts.get(name)?, choices)
    }

    pub fn some_bytes(&self, name: &str, choices: &mut Choices<'_>) -> Option<Vec<u8>> {
        pick(self.bytes.get(name)?, choices)
    }
}

fn keep<T: PartialEq>(kept: &mut VecDeque<T>, value: T) {
    if kept.contains(&value) {
        return;
    }
    if kept.len() == KEPT {
        kept.pop_front();
    }
    kept.push_back(value);
}

fn pick<T: Clone>(kept: &VecDeque<T>, choices: &mut Choices<'_>) -> Option<T> {
    kept.get(choices.below(kept.len().max(1))).cloned()
}
