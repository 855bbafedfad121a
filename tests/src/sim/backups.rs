//! Replicas that are set back to an earlier moment, or made anew: restored images of servers and disks, storage snapshots, an old
//! state folder, mkfs. And what the nodes could still have read of what was lost with that.
//!
//! # What is checked
//!
//! A replica that was made anew has no vote, so that alone never loses anything: the cluster waits. One that was set back votes as
//! it did then, and no protocol can tell, unless something else says more. So a decision by votes that loses what a client has seen
//! is unsound if the node that took it had read, in that run, that as much was committed: on a device that nobody set back, by a
//! heartbeat of a node that served, or in its own history. Where nothing said so the history ends there: nothing is promised from
//! then on. Written without the product's own notion of a lower bound: what was *ever* shown on a medium counts, also if it was
//! written over since.

use super::media::Relics;
use super::unsound::Unsound;
use super::world::World;
use ccd_core::configuration::{Configuration, Decider};
use ccd_core::ids::{DeviceRole, Epoch, Position, Stamp};
use ccd_core::protocol::{Decision, DecisionKind};
use ccd_core::replica::Heartbeat;
use std::collections::BTreeSet;

/// Everything as it was at some moment.
#[derive(Clone, Debug)]
pub struct Backup {
    relics: Relics,
    /// What the histories reached to, by server.
    told: Vec<Position>,
    shown: [Stamp; 2],
}

/// What was done to replicas, and what the media showed.
#[derive(Debug, Default)]
pub(super) struct Setbacks {
    /// Some replica was set back.
    happened: bool,
    /// The newest state that a serving node's heartbeat on each device has shown.
    shown: [Stamp; 2],
    /// Which server has opened which configuration that it had proposed.
    opened: BTreeSet<(usize, Epoch)>,
    /// Something was lost that nothing showed any more.
    pub over: Option<String>,
}

impl World {
    pub fn backup(&self) -> Backup {
        Backup {
            relics: self.media.relics(),
            told: self.servers.iter().map(|server| server.told).collect(),
            shown: self.setbacks.shown,
        }
    }

    /// The local copy of a server that is down is as it was then; with `history`, its whole state folder.
    pub fn set_back_local(&mut self, index: usize, backup: &Backup, history: bool) {
        assert!(
            self.servers[index].process.is_none(),
            "only the copy of a server that is down is set back"
        );
        self.log.line(
            self.now,
            format_args!("n{index} is set back, history too: {history}"),
        );
        self.ghosts
            .retain(|_, ghost| ghost.server != index || ghost.slot != 0);
        self.media.set_back_local(index, &backup.relics);
        self.setbacks.happened = true;
        if history {
            self.servers[index].told = backup.told[index];
        }
    }

    /// The local copy of a running server is as it was then: its file was replaced below it.
    pub fn overwrite_local(&mut self, index: usize, backup: &Backup) {
        self.log
            .line(self.now, format_args!("n{index} has another local copy below it"));
        self.media.overwrite_local(index, &backup.relics);
    }

    /// A device that nobody uses is as it was then.
    pub fn set_back_device(&mut self, role: DeviceRole, backup: &Backup) {
        assert!(
            self.servers.iter().all(|server| server.process.is_none()),
            "a device that somebody uses is not set back"
        );
        self.log.line(self.now, format_args!("{role} is set back"));
        let slot = role as usize + 1;
        self.ghosts.retain(|_, ghost| ghost.slot != slot);
        self.media.set_back_device(role, &backup.relics);
        self.setbacks.happened = true;
        self.setbacks.shown[role as usize] = backup.shown[role as usize];
    }

    /// Somebody clears a device that is in use, or puts it back to what it held then.
    pub fn overwrite_device(&mut self, role: DeviceRole, backup: Option<&Backup>) {
        let what = if backup.is_some() { "put back" } else { "cleared" };
        self.log
            .line(self.now, format_args!("{role} is {what} below its users"));
        self.media
            .overwrite_device(role, backup.map(|backup| &backup.relics));
        self.setbacks.happened = true;
        self.setbacks.shown[role as usize] =
            backup.map_or_else(Default::default, |backup| backup.shown[role as usize]);
    }

    /// Somebody writes over the first block of a device that is in use.
    pub fn scribble_on_device(&mut self, role: DeviceRole) {
        self.log
            .line(self.now, format_args!("{role} is written to by somebody else"));
        self.media.scribble_on_device(role);
    }

    /// A device loses the blocks of this kind in a server's area, and nothing else.
    pub fn clear_control(&mut self, role: DeviceRole, index: usize, kind: &str) {
        self.log.line(
            self.now,
            format_args!("{role} loses each {kind} of n{index} below its users"),
        );
        self.media.clear_control(role, self.node_id(index), kind);
        self.setbacks.happened = true;
    }

    /// A block of the local copy of a server that is down has rotted: the first of those that were used since then.
    pub fn rot_local(&mut self, index: usize, since: &Backup) {
        assert!(self.servers[index].process.is_none(), "it would not see it");
        self.log
            .line(self.now, format_args!("n{index} has a damaged local copy"));
        self.media.rot_local(index, &since.relics);
        self.damaged = true;
    }

    /// The history of a server that is down is gone.
    pub fn forget_history(&mut self, index: usize) {
        self.servers[index].told = Position::EMPTY;
    }

    pub(super) fn forget_shown(&mut self, role: DeviceRole) {
        self.setbacks.shown[role as usize] = Stamp::default();
    }

    /// A heartbeat is on a device.
    pub(super) fn witness_heartbeat(&mut self, slot: usize, heartbeat: &Heartbeat) {
        if let Some(shown) = slot.checked_sub(1).map(|device| &mut self.setbacks.shown[device])
            && heartbeat.serving
        {
            *shown = heartbeat.stamp.max(*shown);
        }
    }

    /// What a look at this replica shows now.
    pub(super) fn shown(&self, slot: usize) -> Stamp {
        slot.checked_sub(1)
            .map_or(Stamp::default(), |device| self.setbacks.shown[device])
    }

    /// Nothing is promised any more: what was lost nobody could know.
    pub fn is_over(&self) -> bool {
        self.setbacks.over.is_some()
    }

    /// A scenario goes on where a history would be over.
    pub fn promise_nothing(&mut self, epoch: Epoch) {
        self.setbacks.happened = true;
        self.setbacks.opened.retain(|(_, opened)| *opened <= epoch);
        self.ledger.promise_nothing(epoch);
    }

    /// A node opens a configuration that it has proposed. It does that once; if it does it again, its replicas were set back to before
    /// they had recorded that, and the same was decided anew.
    pub(super) fn witness_opened(&mut self, index: usize, configuration: &Configuration) {
        let is_proposer = configuration.proposer == self.node_id(index);
        let is_again = is_proposer && !self.setbacks.opened.insert((index, configuration.epoch));
        if is_again && self.setbacks.happened {
            let text = format!("n{index} opens {configuration} for the second time");
            let unsound = Unsound::new("invariant_one_configuration_an_epoch", text);
            self.judge_decision(index, configuration, unsound);
        }
    }

    /// A node says that what it told of is lost: so it is only if replicas were set back.
    pub(super) fn invariant_what_is_told_is_kept(
        &self,
        index: usize,
        decision: &Decision,
    ) -> Result<(), Unsound> {
        let is_excused = self.setbacks.happened || self.ledger.is_overruled();
        if is_excused || decision.kind != DecisionKind::UpdatesLost {
            return Ok(());
        }
        let text = format!("n{index}: {}", decision.text);
        Err(Unsound::new("invariant_what_is_told_is_kept", text))
    }

    /// A strict answer leaves out what a client has seen: whether its node could have known better.
    pub(super) fn judge_answer(
        &mut self,
        index: usize,
        seen: Stamp,
        unsound: Unsound,
    ) -> Result<(), Unsound> {
        let knows = self.servers[index].knows;
        if !self.setbacks.happened || knows >= seen {
            return Err(unsound);
        }
        let text = format!("n{index} knew of {knows}: {}", unsound.text);
        self.log.line(self.now, format_args!("OVER {text}"));
        self.setbacks.over.get_or_insert(text);
        Ok(())
    }

    /// What a node has taken for decided is unsound: whether it could have known better.
    pub(super) fn judge_decision(&mut self, index: usize, configuration: &Configuration, unsound: Unsound) {
        let is_excusable = self.setbacks.happened
            && configuration.decider == Decider::Votes
            && matches!(
                unsound.invariant,
                "invariant_no_acked_update_lost" | "invariant_one_configuration_an_epoch"
            );
        if !is_excusable {
            self.judge(Err(unsound));
            return;
        }
        let knows = self.servers[index].knows;
        let lost = self.ledger.first_lost(configuration);
        // A configuration of that epoch has served: another one takes its place.
        let is_overlooked =
            unsound.invariant == "invariant_one_configuration_an_epoch" && knows.epoch >= configuration.epoch;
        if is_overlooked || lost.is_some_and(|lost| lost <= knows) {
            let text = format!(
                "n{index} knew that {knows} was committed, and {lost:?} is lost: {}",
                unsound.text
            );
            self.judge(Err(Unsound::new("invariant_no_start_below_the_evidence", text)));
            return;
        }
        let text = format!("n{index} knew of {knows}: {}", unsound.text);
        self.log.line(self.now, format_args!("OVER {text}"));
        self.setbacks.over.get_or_insert(text);
    }
}
