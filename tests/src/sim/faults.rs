//! Makes the faults of the budget happen, and ends them all.

use super::Unsound;
use super::asks::Asker;
use super::happening::Happening;
use super::plan::FaultKind;
use super::store::Fault;
use super::world::World;
use ccd_core::client::RequestBody;
use ccd_core::ids::DeviceRole;
use ccd_core::protocol::{Event, ServingState};
use core::time::Duration;

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(6);

/// How long an operator waits for `leave` and `join`.
const OPERATOR_PATIENCE: Duration = Duration::from_secs(3);

impl World {
    /// From now on the budget's faults happen.
    pub fn let_faults_begin(&mut self) {
        self.faulty = true;
        self.schedule_fault();
    }

    fn schedule_fault(&mut self) {
        if !self.faults.kinds.is_empty() {
            let interval = self.faults.interval;
            let next = self.draw(interval / 8, interval * 3);
            self.after(next, Happening::Fault);
        }
    }

    pub(super) fn fault_begins(&mut self) {
        if !self.faulty {
            return;
        }
        self.schedule_fault();
        let kinds = self.faults.kinds.clone();
        let kind = *self.chance.pick(&kinds);
        let lasts = self.draw(SHORTEST, LONGEST);
        let first = self.chance.below(self.shape.nodes as u64) as usize;
        if self.fault_of_many_begins(kind, first, lasts) {
            return;
        }
        if kind == FaultKind::Clone {
            self.clone_begins(first);
            return;
        }
        if kind == FaultKind::Move {
            self.move_begins(first);
            return;
        }
        if kind == FaultKind::Edit {
            self.edit_begins(first, lasts);
            return;
        }
        if kind == FaultKind::Replace {
            self.replace_begins(first, self.now + lasts);
            return;
        }
        let second = match kind {
            FaultKind::Copy => self.copy_server(first),
            FaultKind::CutOneWay | FaultKind::CutPair => {
                let others: Vec<usize> = (0..self.shape.nodes).filter(|other| *other != first).collect();
                *self.chance.pick(&others)
            }
            _ => self.chance.below(self.shape.devices.max(1) as u64) as usize,
        };
        self.log.line(
            self.now,
            format_args!("FAULT {kind:?} {first} {second} for {lasts:?}"),
        );
        let role = DeviceRole::ALL[second.min(1)];
        let until = self.now + lasts;
        match kind {
            FaultKind::Crash => self.crash(first, false),
            FaultKind::PowerCut => self.crash(first, true),
            FaultKind::PowerCutAll => {
                (0..self.shape.nodes).for_each(|index| self.crash(index, true));
                let torn = self.faults.torn_writes;
                self.media.power_cut_devices(torn, &mut self.chance);
            }
            FaultKind::Pause => self.pause(first),
            FaultKind::CutOneWay => self.network.cut(first, second),
            FaultKind::CutPair => {
                self.network.cut(first, second);
                self.network.cut(second, first);
            }
            FaultKind::Isolate => self.others(first).for_each(|other| {
                self.network.cut(first, other);
                self.network.cut(other, first);
            }),
            FaultKind::DeviceLoss => self.media.lose_device(role),
            FaultKind::PathLoss => self.media.lose_path(first, role),
            FaultKind::DeviceStall => self.media.stall_device(role, until),
            FaultKind::PathStall => self.media.stall_path(first, role, until),
            FaultKind::Leave => self.operator_tells(first, RequestBody::Leave),
            FaultKind::Reconnect => self.media.reconnect(first, role),
            FaultKind::TargetReset => self.reset_target(role),
            FaultKind::Copy => self.start_copy(second, first),
            FaultKind::CrashSome
            | FaultKind::Partition
            | FaultKind::CutsOneWay
            | FaultKind::FlapLink
            | FaultKind::FlapProcess
            | FaultKind::DateJump
            | FaultKind::Clone
            | FaultKind::Move
            | FaultKind::Edit
            | FaultKind::Replace => unreachable!("begun before"),
        }
        self.at(until, Happening::FaultEnds { kind, first, second });
    }

    pub(super) fn fault_ends(&mut self, kind: FaultKind, first: usize, second: usize) {
        let role = DeviceRole::ALL[second.min(1)];
        match kind {
            FaultKind::Crash | FaultKind::PowerCut => self.start(first),
            FaultKind::PowerCutAll => {
                for index in 0..self.shape.nodes {
                    let later = self.draw(Duration::ZERO, Duration::from_secs(3));
                    self.after(later, Happening::Start { server: index });
                }
            }
            FaultKind::Pause => self.resume(first),
            FaultKind::CutOneWay => self.mend(first, second),
            FaultKind::CutPair => {
                self.mend(first, second);
                self.mend(second, first);
            }
            FaultKind::Isolate => self.others(first).for_each(|other| {
                self.mend(first, other);
                self.mend(other, first);
            }),
            FaultKind::DeviceLoss => self.media.return_device(role),
            FaultKind::PathLoss => self.media.return_path(first, role),
            FaultKind::DeviceStall | FaultKind::PathStall | FaultKind::Reconnect | FaultKind::TargetReset => {
            }
            FaultKind::CrashSome
            | FaultKind::Partition
            | FaultKind::CutsOneWay
            | FaultKind::FlapLink
            | FaultKind::FlapProcess
            | FaultKind::DateJump
            | FaultKind::Clone
            | FaultKind::Move
            | FaultKind::Replace => unreachable!("these end by events of their own"),
            FaultKind::Leave => self.operator_tells(first, RequestBody::Join),
            FaultKind::Copy => self.end_copy(second, first),
            FaultKind::Edit => self.edit_ends(first),
        }
    }

    /// The target of a device is reset: it forgets its reservation unless it stores it.
    fn reset_target(&mut self, role: DeviceRole) {
        if !self.faults.targets_remember {
            self.forget_registrations(role);
        }
    }

    fn others(&self, index: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.shape.nodes).filter(move |other| *other != index)
    }

    fn operator_tells(&mut self, index: usize, body: RequestBody) {
        self.servers[index].has_left = true;
        self.ask(index, Asker::Nobody, body, OPERATOR_PATIENCE);
    }

    /// A leave that was said to be done holds until an operator says otherwise.
    pub fn invariant_who_left_does_not_serve_alone(&self) -> Result<(), Unsound> {
        for server in self
            .servers
            .iter()
            .filter(|server| server.left_in == Some(server.run))
        {
            let Some(process) = &server.process else { continue };
            let status = process.node.status(server.clock.show(self.now));
            let is_alone = (status.configuration).is_some_and(|known| known.members.count() == 1);
            if status.state == ServingState::Serving && is_alone {
                let text = format!("n{} left, and serves: {}", server.id, status.verdict);
                return Err(Unsound::new("invariant_who_left_does_not_serve_alone", text));
            }
        }
        Ok(())
    }

    /// One direction is whole again, and who sends there knows it: a driver has made a new connection.
    fn mend(&mut self, from: usize, to: usize) {
        self.network.mend(from, to);
        let node = self.node_id(to);
        self.tell(from, Event::Reachable { node });
    }

    /// All faults end: the network is whole, devices answer, processes run, and whoever left joins again.
    pub fn heal(&mut self) {
        self.log.line(self.now, format_args!("HEALED"));
        let result = self.invariant_who_left_does_not_serve_alone();
        self.judge(result);

        self.faulty = false;
        self.end_clone();
        self.network.mend_all();
        self.media.mend_all();
        self.faults.disk_delay_max = super::plan::FaultBudget::none().disk_delay_max;
        self.end_copies();
        for index in 0..self.shape.nodes {
            self.resume(index);
            self.edit_ends(index);
            self.start(index);
            if self.servers[index].has_left {
                self.operator_tells(index, RequestBody::Join);
            }
        }
    }

    pub fn lose_device(&mut self, role: DeviceRole) {
        self.log.line(self.now, format_args!("{role} is gone"));
        self.media.lose_device(role);
    }

    pub fn return_device(&mut self, role: DeviceRole) {
        self.log.line(self.now, format_args!("{role} is back"));
        self.media.return_device(role);
    }

    pub fn lose_path(&mut self, index: usize, role: DeviceRole) {
        self.log
            .line(self.now, format_args!("n{index} loses its path to {role}"));
        self.media.lose_path(index, role);
    }

    pub fn return_path(&mut self, index: usize, role: DeviceRole) {
        self.log
            .line(self.now, format_args!("n{index} has its path to {role} back"));
        self.media.return_path(index, role);
    }

    /// For so long a node gets no answer from a device.
    pub fn stall_path(&mut self, index: usize, role: DeviceRole, span: Duration) {
        self.log
            .line(self.now, format_args!("n{index} waits {span:?} for {role}"));
        self.media.stall_path(index, role, self.now + span);
    }

    /// From now on every write to this server's local copy fails, or none does.
    pub fn fail_local_writes(&mut self, index: usize, fail: bool) {
        self.media.fail_local_writes(index, fail);
    }

    /// From now on every write to this device fails for every node, or none does; reading it goes on.
    pub fn fail_device_writes(&mut self, role: DeviceRole, fail: bool) {
        let how = if fail {
            "takes no writes"
        } else {
            "takes writes again"
        };
        self.log.line(self.now, format_args!("{role} {how}"));
        self.media.fail_device_writes(role, fail);
    }

    /// The branches that a node has kept aside.
    pub fn branches(&self, index: usize) -> Vec<ccd_core::ids::Position> {
        self.media.branches(index)
    }

    /// From now on the state folder of a node has no room for a branch, or has room again.
    pub fn fill_state_folder(&mut self, index: usize, is_full: bool) {
        let how = if is_full { "is full" } else { "has room again" };
        self.log
            .line(self.now, format_args!("n{index}: the state folder {how}"));
        self.media.fill_state_folder(index, is_full);
    }

    /// The local copy of a server that is down is replaced by an empty one.
    pub fn wipe_local(&mut self, index: usize) {
        self.take_local(index);
        self.media.wipe_local(index);
    }

    /// The same, with room for images of so many bytes.
    pub fn wipe_local_to(&mut self, index: usize, image_bytes_max: u64) {
        self.take_local(index);
        self.media.wipe_local_to(index, image_bytes_max);
    }

    fn take_local(&mut self, index: usize) {
        assert!(
            self.servers[index].process.is_none(),
            "only the copy of a server that is down is replaced"
        );
        self.log
            .line(self.now, format_args!("n{index} has a new local copy"));
        self.ghosts
            .retain(|_, ghost| ghost.server != index || ghost.slot != 0);
    }

    /// An operator makes a device anew while nothing runs, and everything on it is gone.
    pub fn remake_device(&mut self, role: DeviceRole) {
        self.take_device(role);
        self.media.remake_device(role);
    }

    /// The same, with room for images of so many bytes.
    pub fn remake_device_to(&mut self, role: DeviceRole, image_bytes_max: u64) {
        self.take_device(role);
        self.media.remake_device_to(role, image_bytes_max);
    }

    /// An operator makes a device anew that no process has open for long, while the cluster runs.
    pub fn remake_device_in_use(&mut self, role: DeviceRole) {
        self.log
            .line(self.now, format_args!("{role} is made anew in use"));
        self.media.remake_device_in_place(role);
        self.forget_shown(role);
    }

    fn take_device(&mut self, role: DeviceRole) {
        assert!(
            self.servers.iter().all(|server| server.process.is_none()),
            "a device that somebody uses is not made anew"
        );
        self.log.line(self.now, format_args!("{role} is made anew"));
        let slot = role as usize + 1;
        self.ghosts.retain(|_, ghost| ghost.slot != slot);
        self.forget_shown(role);
    }

    /// Both directions between two nodes.
    pub fn cut_pair(&mut self, first: usize, second: usize) {
        self.log.line(
            self.now,
            format_args!("n{first} and n{second} are cut off from each other"),
        );
        self.network.cut(first, second);
        self.network.cut(second, first);
    }

    /// Cuts a server off from all others.
    pub fn isolate(&mut self, server: usize) {
        for other in (0..self.servers.len()).filter(|other| *other != server) {
            self.cut_pair(server, other);
        }
    }

    /// Ends [`World::isolate`].
    pub fn rejoin(&mut self, server: usize) {
        for other in (0..self.servers.len()).filter(|other| *other != server) {
            self.mend_pair(server, other);
        }
    }

    pub fn mend_pair(&mut self, first: usize, second: usize) {
        self.log.line(
            self.now,
            format_args!("n{first} and n{second} hear each other again"),
        );
        self.mend(first, second);
        self.mend(second, first);
    }

    /// What the next operation on this replica meets.
    pub(super) fn draw_fault(&mut self, index: usize, slot: usize) -> Fault {
        let gone = self.path_fault(index, slot);
        if gone != Fault::None || !self.faulty {
            return gone;
        }
        let rate = self.faults.disk_error_per_mille;
        let fails = if slot == 0 {
            self.chance.chance(200) && self.chance.chance(rate)
        } else {
            self.chance.chance(rate)
        };
        if !fails {
            return Fault::None;
        }
        match self.chance.below(3) {
            0 => Fault::Dead,
            1 => Fault::Reads,
            _ => self.draw_tear(),
        }
    }

    pub(super) fn draw_tear(&mut self) -> Fault {
        let after_writes = self.chance.below(3);
        let kept = match self.chance.below(4) {
            0 => 0,
            1 => u64::MAX,
            2 => (1 << self.chance.below(64)) - 1,
            _ => self.chance.draw(),
        };
        Fault::Break { after_writes, kept }
    }

    pub(super) fn path_fault(&self, index: usize, slot: usize) -> Fault {
        if self.media.is_lost(index, slot) {
            Fault::Dead
        } else {
            Fault::None
        }
    }
}
