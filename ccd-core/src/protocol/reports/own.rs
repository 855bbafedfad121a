//! What this node finds wrong with itself.

use crate::ids::{DeviceRole, NodeId, Replica};
use crate::problem::{Cause, Problem};
use crate::protocol::Node;
use crate::protocol::message::CopyTrouble;
use crate::protocol::replicas::SLOW_BEATS;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

const OVERRULE: &str = "ccdctl takeover --force";

const START_THE_OTHERS: &str = "start ccdd on the nodes that are away; if what they hold is lost, too: ccdctl takeover --force where the newest \
                                copy is";

impl Node {
    pub(super) fn own_problems(&self) -> Vec<Problem> {
        let me = self.me();
        let said = |cause, text: Option<alloc::string::String>| text.map(|text| Problem::new(cause, text));
        let mut all: Vec<Problem> = self.report.of_driver.clone();
        all.extend(said(Cause::OtherRun, self.other_run_text()));
        all.extend(said(Cause::Removed, self.lost_number_text()));
        all.extend(said(Cause::DecidedTwice, self.decided_twice_text()));
        let moved = said(Cause::Moved, self.moved_text());
        all.extend(moved.map(|problem| problem.next(self.next_of_moved())));
        let is_moved = self.is_moved_copy();
        let new_copy = said(Cause::LocalCopyNew, self.new_copy_text().filter(|_| !is_moved));
        all.extend(new_copy.map(|problem| problem.next(self.next_without_others())));
        all.extend(said(Cause::Waits, self.unsigned_text()));
        all.extend(self.copy_problem());
        all.extend(said(
            Cause::Fenced,
            self.shut_out_text().filter(|_| self.serving.is_some()),
        ));
        // Who has left looks at no device, and what it found before may be mended.
        let looked_at = self.settings.devices.iter().filter(|_| !self.has_left());
        all.extend(looked_at.filter_map(|role| self.device_problem(role)));
        all.into_iter().map(|problem| problem.on(me)).collect()
    }

    /// What to do where only those that are away remember; nothing as long as somebody serves.
    pub(super) fn next_without_others(&self) -> &'static str {
        let serves = |node: NodeId| self.peer_state(node).is_some_and(|state| state.serving);
        let is_served = self.serving.is_some() || self.cluster_nodes().iter().any(serves);
        if is_served { "" } else { START_THE_OTHERS }
    }

    /// Others take such a node in again as long as they have the votes. Once all of them are here and nobody serves, they have not.
    fn next_of_moved(&self) -> String {
        let mut others = self.cluster_nodes().without(self.me()).iter();
        let next = self.next_without_others();
        if next.is_empty() || self.serving.is_some() || !others.all(|node| self.linked(node)) {
            return next.to_string();
        }
        let newest = (self.peers.keys())
            .filter_map(|node| Some((self.peer_state(*node)?.position.stamp, *node)))
            .max_by_key(|(stamp, _)| *stamp);
        match newest {
            Some((stamp, node)) if stamp > self.head.position().stamp => {
                format!("on node {node}, which has the newest copy: {OVERRULE}")
            }
            _ => OVERRULE.to_string(),
        }
    }

    fn copy_problem(&self) -> Option<Problem> {
        let text = self.copy_text()?;
        Some(match self.trouble()? {
            CopyTrouble::Failed => {
                let of_folder = |problem: &&Problem| problem.cause == Cause::StateFolder;
                let next = self
                    .report
                    .of_driver
                    .iter()
                    .find(of_folder)
                    .map(|problem| problem.next.clone());
                Problem::new(Cause::LocalCopy, text).next(next.unwrap_or_default())
            }
            CopyTrouble::TooSmall => Problem::new(Cause::TooSmall, text),
        })
    }

    /// What is worst about a device.
    fn device_problem(&self, role: DeviceRole) -> Option<Problem> {
        let view = self.replica(Replica::Device(role));
        let path = self.settings.init.device_path(role).unwrap_or_default();
        let of = |cause, text: alloc::string::String| Problem::new(cause, text).of(role);
        if let Some(text) = self.unshared_text_of(role) {
            let next = format!("ls -l {path}; ccd-disk show {path}");
            return Some(of(Cause::NotSameDisk, text).next(next));
        }
        if let Some(error) = view.error() {
            let text = format!("the {role} ({path}) cannot be used: {error}");
            return Some(if self.damage_text(role).is_some() {
                of(Cause::DeviceDamaged, text).next(format!("ccd-disk check {path}"))
            } else {
                of(Cause::DeviceUnusable, text).next(format!("ccd-disk show {path}"))
            });
        }
        if self.is_found_made_anew(role) {
            let forgot = of(Cause::DeviceForgot, self.made_anew_text_of(role));
            let next = if self.is_owner_without_votes() {
                format!("{OVERRULE}: this node holds all that was acknowledged")
            } else if self.lacking_text(role).is_some() {
                format!("ls -l {path}; ccd-disk heartbeats {path}")
            } else {
                self.next_without_others().to_string()
            };
            return Some(forgot.next(next));
        }
        if let Some(text) = self.small_text(role) {
            return Some(of(Cause::TooSmall, text));
        }
        if let Some(text) = self.damage_text(role) {
            return Some(of(Cause::DeviceDamaged, text).next(format!("ls -l {path}; ccd-disk check {path}")));
        }
        // Who does not serve waits to be let in again, or has left: that is said.
        let is_kept_off = view.usable() && self.is_open() && !self.registered_on(role);
        if is_kept_off {
            let text = format!("not registered on the {role} ({path}), so nothing can be written there");
            return Some(of(Cause::Fenced, text).next(format!("ccd-disk fence status {path}")));
        }
        (view.slow_beats >= SLOW_BEATS).then(|| {
            let text = format!(
                "the {role} ({path}) is slow: an operation takes longer than {} ms, the time from one heartbeat to the next",
                self.settings.heartbeat.as_millis()
            );
            of(Cause::DeviceSlow, text).next("dmesg")
        })
    }
}
