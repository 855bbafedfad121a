//! Last words: this node's recent decisions, written to the devices for whoever goes on without it to read (DESIGN §9,
//! `ccd-disk show`).
//!
//! Nothing waits for them; written with the next heartbeat after something was decided.
//!
//! Owns `last_words`.

use super::Purpose;
use crate::ids::Replica;
use crate::protocol::Node;
use crate::replica::ReplicaOp;
use alloc::collections::VecDeque;
use alloc::string::String;

/// What a region keeps of them.
const BYTES_MAX: usize = 3_900;

/// The newest decisions, and whether the devices have them.
#[derive(Debug, Default)]
pub(in crate::protocol) struct LastWords {
    lines: VecDeque<String>,
    bytes: usize,
    due: bool,
}

/// Of a line, with its end.
fn bytes_of(line: &str) -> usize {
    line.len().saturating_add(1)
}

impl LastWords {
    pub fn add(&mut self, text: &str) {
        let end = text.floor_char_boundary(BYTES_MAX);
        let line = String::from(text.get(..end).unwrap_or_default());
        self.bytes = self.bytes.saturating_add(bytes_of(&line));
        self.lines.push_back(line);
        while self.bytes > BYTES_MAX && self.lines.len() > 1 {
            let oldest = self.lines.pop_front().map_or(0, |line| bytes_of(&line));
            self.bytes = self.bytes.saturating_sub(oldest);
        }
        self.due = true;
    }

    /// Oldest first, one a line, if there is something new.
    fn take(&mut self) -> Option<String> {
        if !core::mem::take(&mut self.due) {
            return None;
        }
        let mut text = String::with_capacity(self.bytes);
        for line in &self.lines {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(line);
        }
        Some(text)
    }
}

impl Node {
    pub(in crate::protocol) fn write_last_words(&mut self) {
        if self.has_lost_number() {
            return;
        }
        let able = |role: &crate::ids::DeviceRole| {
            let view = self.replica(Replica::Device(*role));
            view.usable() && !view.looks_first && self.registered_on(*role)
        };
        let roles: alloc::vec::Vec<_> = self.device_roles().into_iter().filter(able).collect();
        if roles.is_empty() {
            return;
        }
        let Some(text) = self.last_words.take() else {
            return;
        };
        let epoch = self.known.epoch;
        for role in roles {
            let text = text.clone();
            let op = ReplicaOp::WriteLastWords { epoch, text };
            self.ask(Replica::Device(role), op, Purpose::Unattended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_within_the_block_and_told_once() {
        let mut words = LastWords::default();
        assert_eq!(words.take(), None);
        words.add("first");
        words.add("second");
        assert_eq!(words.take().unwrap(), "first\nsecond");
        assert_eq!(words.take(), None);
        for number in 0..1_000 {
            words.add(&alloc::format!("decision {number}"));
        }
        let text = words.take().unwrap();
        assert!(text.len() <= BYTES_MAX && text.ends_with("decision 999"));
        words.add(&"é".repeat(BYTES_MAX));
        assert!(words.take().unwrap().len() <= BYTES_MAX);
    }
}
