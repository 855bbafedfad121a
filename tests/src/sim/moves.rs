//! Servers are put on other machines: a copy of a server, made a while before, gets its network, with or without the server running on. The
//! server or another copy of it has the network later, and who decides a configuration often dies just then.
//!
//! A copy may be counted on and be gone before its server is: then the cluster may wait for an operator, and says so. Nothing that was
//! acknowledged is lost, and nobody votes beside another one of the same node.

use super::happening::Happening;
use super::plan::{FaultBudget, FaultKind, Load, Shape};
use super::random::Random;
use super::world::{LEASE, World};
use core::time::Duration;

/// How old a copy is at most when it is switched on.
const AGE_MAX: Duration = Duration::from_secs(5);
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// How long after its decision one dies at most: before the others have what it starts from.
const AFTER_DECISION_MAX: Duration = Duration::from_millis(2);

/// How long after the copy another node comes back at most.
const TOGETHER_MAX: Duration = Duration::from_millis(30);

pub(super) fn shape(random: &mut Random) -> Shape {
    let (nodes, devices) = match random.below(100) {
        0..18 => (2, 2),
        18..24 => (2, 1),
        24..60 => (3, 0),
        60..68 => (3, 2),
        68..78 => (4, 0),
        78..94 => (5, 0),
        _ => (5, 2),
    };
    Shape { nodes, devices }
}

pub(super) fn faults(random: &mut Random, shape: Shape) -> FaultBudget {
    let mut kinds = vec![FaultKind::Move; 3];
    kinds.push(FaultKind::Crash);
    let mut consider = |kind: FaultKind, is_possible: bool, random: &mut Random| {
        if is_possible && random.chance(350) {
            kinds.push(kind);
        }
    };
    consider(FaultKind::PowerCut, true, random);
    consider(FaultKind::PowerCutAll, true, random);
    consider(FaultKind::Pause, true, random);
    consider(FaultKind::Isolate, true, random);
    consider(FaultKind::CutPair, true, random);
    consider(FaultKind::PathLoss, shape.devices > 0, random);
    consider(FaultKind::DeviceLoss, shape.devices > 0, random);
    FaultBudget {
        kinds,
        interval: Duration::from_millis(random.between(400, 2_500)),
        disk_delay_max: Duration::from_micros(if random.chance(500) {
            random.skewed(500, 30_000)
        } else {
            500
        }),
        dies_deciding_per_mille: random.between(50, 700),
        start_spread: Duration::from_millis(100),
        late_writes: random.chance(300),
        targets_remember: random.chance(500),
        drift: random.chance(500),
        end: Duration::from_millis(random.between(5_000, 12_000)),
        ..FaultBudget::none()
    }
}

pub(super) fn load(random: &mut Random, shape: Shape) -> Load {
    Load {
        clients: shape.nodes + random.below(3) as usize,
        think_max: Duration::from_millis(random.skewed(30, 400)),
        operations_max: random.between(80, 240) as usize,
        keys: random.between(1, 3) as usize,
        registers: random.between(1, 3) as u8,
        command: false,
    }
}

impl World {
    /// A copy of this server is made, and switched on now or later.
    pub(super) fn move_begins(&mut self, of: usize) {
        if self.servers[of].is_copy() {
            return;
        }
        let copy = self.copy_server(of);
        let age = if self.chance.chance(300) {
            Duration::ZERO
        } else {
            self.draw(Duration::ZERO, AGE_MAX)
        };
        if self.chance.chance(500) {
            // Long enough before the copy that the others may have stopped serving.
            let before = self.draw(Duration::ZERO, 3 * LEASE);
            self.after(age.saturating_sub(before), Happening::Dies { server: of });
        }
        self.log.line(
            self.now,
            format_args!("n{copy} is a copy of n{of}, and is switched on after {age:?}"),
        );
        self.after(age, Happening::Moves { copy, of });
        // Another node is away meanwhile, and comes back with the copy: then the configuration that counts on both is decided by somebody
        // who alone has what it starts from.
        let away = self.chance.below(self.shape.nodes as u64) as usize;
        if away != of && self.chance.chance(500) {
            self.crash(away, false);
            let back = self.draw(Duration::ZERO, TOGETHER_MAX);
            self.after(age + back, Happening::Start { server: away });
        }
    }

    /// The copy is switched on, with the network of its server unless another copy has that.
    pub(super) fn moves(&mut self, copy: usize, of: usize) {
        if !self.faulty || self.servers[copy].is_retired {
            self.retire(copy);
            return;
        }
        if !self.servers[of].is_copy() {
            self.connect_instead(copy, of);
            self.copy_was_connected = true;
        }
        self.start(copy);
        if self.chance.chance(700) {
            let lasts = self.draw(SHORTEST, LONGEST);
            self.after(lasts, Happening::MovesBack { copy, of });
        }
    }

    /// The copy is switched off for ever, and its server has its network again.
    pub(super) fn moves_back(&mut self, copy: usize, of: usize) {
        self.end_copy(copy, of);
        if !self.servers[of].is_copy() {
            self.start(of);
        }
    }

    /// This server has decided a configuration.
    pub(super) fn may_die_deciding(&mut self, server: usize) {
        let per_mille = self.faults.dies_deciding_per_mille;
        // Nothing is drawn where it does not happen.
        if !self.faulty || per_mille == 0 || !self.chance.chance(per_mille) {
            return;
        }
        let later = self.draw(Duration::ZERO, AFTER_DECISION_MAX);
        let down = self.draw(SHORTEST, LONGEST);
        self.after(later, Happening::Dies { server });
        self.after(later + down, Happening::Start { server });
    }
}
