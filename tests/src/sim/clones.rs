//! A server is shown a copy of one shared disk under its name, while the other server owns both.
//!
//! ```text
//! both serve, and both devices are counted
//! one of them dies; the disk is copied; updates go on
//! the network is cut, and the dead one starts with the copy
//! the owner loses its way to the other disk, and goes on alone
//! the name is put right at the next start, and everything is mended
//! ```
//!
//! From the copy to the loss of the way some leases pass: a copy that lacks nothing is told from the disk by nobody. For the same reason
//! nothing else fails meanwhile, so this is a family of its own.

use super::happening::Happening;
use super::plan::FaultBudget;
use super::random::Random;
use super::world::{LEASE, World};
use ccd_core::ids::DeviceRole;
use core::time::Duration;

/// How long one of these takes at most before it ends.
const LASTS_MAX: Duration = LEASE.saturating_mul(6);

#[derive(Clone, Copy, Debug)]
pub(super) enum CloneStep {
    Copied,
    Started,
    PathLost,
    Righted,
}

/// The server that is shown a copy, and of which disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clone {
    server: usize,
    role: DeviceRole,
    is_copied: bool,
    is_path_lost: bool,
}

impl Clone {
    fn owner(self) -> usize {
        1 - self.server
    }

    fn other_role(self) -> DeviceRole {
        DeviceRole::ALL[1 - self.role as usize]
    }
}

pub(super) fn faults(random: &mut Random) -> FaultBudget {
    FaultBudget {
        kinds: vec![super::plan::FaultKind::Clone],
        interval: Duration::from_millis(random.between(500, 1_500)),
        start_spread: Duration::from_millis(100),
        late_writes: random.chance(500),
        targets_remember: random.chance(500),
        drift: random.chance(500),
        end: Duration::from_millis(random.between(10_000, 18_000)),
        ..FaultBudget::none()
    }
}

impl World {
    pub(super) fn clone_begins(&mut self, server: usize) {
        let known = self.ledger.latest_configuration();
        let is_whole = known.members.count() == 2 && known.devices.count() == 2;
        if self.clone.is_some() || !is_whole {
            return;
        }
        let role = *self.chance.pick(&DeviceRole::ALL);
        self.clone = Some(Clone {
            server,
            role,
            is_copied: false,
            is_path_lost: false,
        });
        self.log.line(
            self.now,
            format_args!("FAULT n{server} is to be shown a copy of the {role}"),
        );
        self.crash(server, false);
        let next = self.draw(Duration::from_millis(20), 3 * LEASE);
        self.after(next, Happening::Clone(CloneStep::Copied));
    }

    pub(super) fn clone_goes_on(&mut self, step: CloneStep) {
        let Some(clone) = self.clone.filter(|_| self.faulty) else {
            return;
        };
        self.log.line(self.now, format_args!("FAULT {step:?}"));
        let (server, owner) = (clone.server, clone.owner());
        match step {
            CloneStep::Copied => {
                self.separate_device(server, clone.role, true);
                self.clone = Some(Clone {
                    is_copied: true,
                    ..clone
                });
                let next = self.draw(2 * LEASE, 4 * LEASE);
                self.after(next, Happening::Clone(CloneStep::Started));
            }
            CloneStep::Started => {
                self.cut_pair(server, owner);
                self.start(server);
                let (lost, ends) = (
                    self.draw(Duration::from_millis(20), LASTS_MAX / 2),
                    self.draw(LASTS_MAX / 2, LASTS_MAX),
                );
                self.after(lost, Happening::Clone(CloneStep::PathLost));
                self.after(ends, Happening::Clone(CloneStep::Righted));
            }
            CloneStep::PathLost => {
                self.lose_path(owner, clone.other_role());
                self.clone = Some(Clone {
                    is_path_lost: true,
                    ..clone
                });
            }
            CloneStep::Righted => {
                self.end_clone();
                self.mend_pair(server, owner);
                self.start(server);
            }
        }
    }

    /// The server sees the disk itself at its next start.
    pub(super) fn end_clone(&mut self) {
        let Some(clone) = self.clone.take() else {
            return;
        };
        self.crash(clone.server, false);
        if clone.is_copied {
            self.share_device(clone.server, clone.role);
        }
        if clone.is_path_lost {
            self.return_path(clone.owner(), clone.other_role());
        }
    }
}
