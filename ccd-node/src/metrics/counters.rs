//! Counts what passes through the event loop. Owned by it; an addition for each answer.

use ccd_core::client::{Answer, Refusal, Reply};
use ccd_core::protocol::DecisionKind;
use std::collections::BTreeMap;

/// Since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Answers with rows, keys or the whole database.
    pub queries: u64,
    /// Updates of this node's clients.
    pub updates_committed: u64,
    pub updates_rolled_back: u64,
    /// By reason.
    pub refused: BTreeMap<&'static str, u64>,
    pub decisions: BTreeMap<String, u64>,
}

impl Counters {
    pub fn note_reply(&mut self, reply: &Reply) {
        match reply {
            Ok(Answer::Rows { .. } | Answer::Keys { .. } | Answer::Snapshot(_)) => self.queries += 1,
            Ok(Answer::Committed { .. }) => self.updates_committed += 1,
            Ok(
                Answer::WouldApply { .. }
                | Answer::Outcome { .. }
                | Answer::Verified(_)
                | Answer::Drilled(_)
                | Answer::Done,
            ) => {}
            Err(refusal) => {
                if matches!(refusal, Refusal::RolledBack { .. } | Refusal::Vetoed { .. }) {
                    self.updates_rolled_back += 1;
                }
                self.note_refusal(refusal);
            }
        }
    }

    /// Counts a request that was refused beside the loop, or there.
    pub fn note_refusal(&mut self, refusal: &Refusal) {
        *self.refused.entry(reason(refusal)).or_default() += 1;
    }

    /// A read that was answered beside the loop.
    pub fn note_long_read(&mut self) {
        self.queries += 1;
    }

    pub fn note_decision(&mut self, kind: DecisionKind) {
        *self.decisions.entry(snake(&format!("{kind:?}"))).or_default() += 1;
    }
}

fn reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Op(_) => "wrong",
        Refusal::NotServing { .. } => "not_serving",
        Refusal::NoQuorum { .. } => "no_quorum",
        Refusal::Busy => "busy",
        Refusal::RolledBack { .. } => "rolled_back",
        Refusal::TimedOut => "timed_out",
        Refusal::Unknown { .. } => "unknown",
        Refusal::Full { .. } => "full",
        Refusal::Unsafe { .. } => "unsafe",
        Refusal::Vetoed { .. } => "vetoed",
    }
}

/// `BranchKept` as the decision records spell it.
fn snake(name: &str) -> String {
    let mut spelled = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !spelled.is_empty() {
            spelled.push('_');
        }
        spelled.extend(letter.to_lowercase());
    }
    spelled
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::ids::Position;

    #[test]
    fn each_answer_is_counted_once_where_it_belongs() {
        let mut counters = Counters::default();
        let position = Position::EMPTY;
        let why = || "because".to_owned();
        for reply in [
            Ok(Answer::Rows {
                position,
                rows: Vec::new(),
            }),
            Ok(Answer::Keys {
                position,
                keys: Vec::new(),
            }),
            Ok(Answer::Committed {
                position,
                removed: None,
            }),
            Ok(Answer::Done),
            Err(Refusal::Busy),
            Err(Refusal::Busy),
            Err(Refusal::RolledBack { why: why() }),
            Err(Refusal::NotServing { why: why() }),
        ] {
            counters.note_reply(&reply);
        }
        counters.note_long_read();
        counters.note_refusal(&Refusal::TimedOut);
        counters.note_decision(DecisionKind::BranchKept);
        let expected = Counters {
            queries: 3,
            updates_committed: 1,
            updates_rolled_back: 1,
            refused: BTreeMap::from([
                ("busy", 2),
                ("not_serving", 1),
                ("rolled_back", 1),
                ("timed_out", 1),
            ]),
            decisions: BTreeMap::from([("branch_kept".to_owned(), 1)]),
        };
        assert_eq!(counters, expected);
    }
}
