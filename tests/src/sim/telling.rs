//! What nodes tell their drivers of committed updates: each once, in order, the same on every node, and what its effects
//! are. A server keeps up to where it was told, as the daemon does in its history.

use super::unsound::Unsound;
use super::world::World;
use ccd_core::database::{Database, Difference, Record};
use ccd_core::ids::{Generation, Lineage, Position};
use ccd_core::protocol::Committed;
use std::collections::HashMap;
use std::sync::Arc;

/// What was told of each generation, by whoever told it first.
#[derive(Debug, Default)]
pub struct Tellings {
    lineages: HashMap<Generation, Lineage>,
}

impl World {
    /// A node tells its driver.
    pub(super) fn witness_committed(&mut self, index: usize, committed: &Committed) {
        let told = self.servers[index].told;
        let after = committed.after.position();
        self.servers[index].told = after;
        let goes_on = (committed.way.as_ref())
            .is_some_and(|(before, _)| before.position().stamp.generation == told.stamp.generation);
        self.servers[index].gaps += u64::from(!goes_on);
        if self.damaged {
            return;
        }
        let mut result = (self.invariant_told_in_order(told, committed))
            .and_then(|()| self.invariant_committed_before_it_is_said(after, "what is told"));
        if let (Ok(()), Some((before, records))) = (&result, &committed.way) {
            result = invariant_effects_lead_there(before, records, &committed.after)
                .and_then(|()| self.invariant_told_alike(records));
        }
        self.judge(result.map_err(|unsound| Unsound {
            text: format!("n{index}: {}", unsound.text),
            ..unsound
        }));
    }

    fn invariant_told_in_order(&self, told: Position, committed: &Committed) -> Result<(), Unsound> {
        let name = "invariant_told_in_order";
        let after = committed.after.position();
        let overruled = self.ledger.is_overruled();
        if after.stamp.generation <= told.stamp.generation && !overruled {
            return Err(Unsound::new(name, format!("told {after:?} after {told:?}")));
        }
        let Some((before, _)) = &committed.way else {
            return Ok(());
        };
        let before = before.position();
        let goes_on = before.lineage == told.lineage && before.stamp.generation == told.stamp.generation;
        // A copy that was found at the start, and begins later: a gap.
        if goes_on || before.stamp.generation > told.stamp.generation {
            return Ok(());
        }
        let text = format!("told from {before:?} to {after:?}, and before that up to {told:?}");
        Err(Unsound::new(name, text))
    }

    fn invariant_told_alike(&mut self, records: &[Arc<Record>]) -> Result<(), Unsound> {
        for record in records {
            let Position { stamp, lineage } = record.next;
            let first = *self.tellings.lineages.entry(stamp.generation).or_insert(lineage);
            if first != lineage && !self.ledger.is_overruled() {
                let text = format!(
                    "generation {} is {lineage:?} here, {first:?} elsewhere",
                    stamp.generation
                );
                return Err(Unsound::new("invariant_told_alike", text));
            }
        }
        Ok(())
    }
}

fn invariant_effects_lead_there(
    before: &Database,
    records: &[Arc<Record>],
    after: &Database,
) -> Result<(), Unsound> {
    let name = "invariant_effects_lead_there";
    let mut now = before.clone();
    let mut all = Vec::new();
    for record in records {
        let followed = now.effects(record);
        let (effects, next) = followed.map_err(|error| Unsound::new(name, format!("{record:?}: {error}")))?;
        all.extend(effects);
        now = next;
    }
    let (from, to) = (before.position(), after.position());
    let steps = to.stamp.generation.0 - from.stamp.generation.0;
    if all.len() as u64 != steps {
        return Err(Unsound::new(
            name,
            format!("{} updates from {from:?} to {to:?}", all.len()),
        ));
    }
    if Difference::composed(all) != before.difference(after) || now.position() != to {
        return Err(Unsound::new(name, format!("from {from:?} to {to:?}")));
    }
    Ok(())
}
