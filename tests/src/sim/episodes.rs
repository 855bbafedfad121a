//! Histories of the family of replicas: some updates with nodes and devices that come and go; then all power is off, and replicas are
//! set back, made anew or taken away; then the servers start in some order. What is checked is in `backups.rs`, and:
//!
//! - voters that nobody touched, and that are enough, go on by themselves;
//! - where they are not, the cluster says what it waits for, and serves again once an operator has overruled it.
//!
//! An override ends a history's episodes: what is lost by it is lost with open eyes.

use super::backups::Backup;
use super::plan::Plan;
use super::run::{RECOVERY_MAX, end_game, linearizable};
use super::unsound::Unsound;
use super::voters::Voter;
use super::world::{LEASE, World};
use ccd_core::client::RequestBody;
use ccd_core::ids::{DeviceRole, Position};
use ccd_core::protocol::ServingState;
use core::time::Duration;

/// Longest wait between two things that happen.
const STEP_MAX: Duration = Duration::from_millis(1_500);

/// How long an operator waits for `takeover`.
const OPERATOR_PATIENCE: Duration = Duration::from_secs(6);

/// What is done to the replicas of one history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tampering {
    MadeAnew,
    SetBack,
    Both,
}

/// What was done to whom in one episode.
#[derive(Debug)]
struct Touched {
    voters: Vec<Voter>,
    /// The configuration that had been decided last had served.
    had_opened: bool,
}

pub(super) fn history(
    world: &mut World,
    plan: &Plan,
    counts: &mut super::run::Counts,
) -> Result<(), Unsound> {
    world.start_all(plan.faults.start_spread);
    if !world.define_formats(plan.load.keys, plan.faults.start_spread + RECOVERY_MAX) {
        return world.liveness("invariant_a_new_cluster_serves", "no node took the first update");
    }
    let tampering = match world.chance.below(10) {
        0..3 => Tampering::MadeAnew,
        3..7 => Tampering::SetBack,
        _ => Tampering::Both,
    };
    world.let_clients_begin();
    let mut backups = vec![world.backup()];
    let mut is_overruled = false;
    for _ in 0..world.chance.between(1, 3) {
        world.whole_again()?;
        world.come_and_go(&mut backups);
        let touched = world.tamper(tampering, &backups);
        world.start_again();
        let goes_on = world.goes_on(&touched)?;
        if world.is_over() {
            counts.over += 1;
            return Ok(());
        }
        if !goes_on {
            counts.overruled += 1;
            world.overrule()?;
            // Perhaps nothing is left.
            world.define_formats(plan.load.keys, RECOVERY_MAX);
            is_overruled = true;
            break;
        }
    }
    world.run_for(LEASE);
    world.workload.stop();
    let end = end_game(world);
    if world.is_over() {
        counts.over += 1;
        return Ok(());
    }
    end?;
    if is_overruled {
        return Ok(());
    }
    linearizable(world, counts)
}

impl World {
    /// Everybody is a member again, and every device in sync.
    fn whole_again(&mut self) -> Result<(), Unsound> {
        let whole = |world: &World| {
            let configuration = world.ledger.latest_configuration();
            let (nodes, devices) = (world.shape.node_set(), world.shape.device_set());
            world.is_over() || configuration.members == nodes && configuration.devices == devices
        };
        if self.run_until(RECOVERY_MAX, whole) {
            return Ok(());
        }
        let text = format!("it stays {}", self.ledger.latest_configuration());
        self.liveness("invariant_faults_end_and_redundancy_returns", &text)
    }

    fn wait(&mut self) {
        let span = self.draw(Duration::from_millis(5), STEP_MAX);
        self.run_for(span);
    }

    /// Nodes and devices come and go under load, so that some are left out and miss what the others take; backups are made.
    fn come_and_go(&mut self, backups: &mut Vec<Backup>) {
        let mut lost = [false; 2];
        for _ in 0..self.chance.between(1, 8) {
            let server = self.chance.below(self.shape.nodes as u64) as usize;
            let device = self.chance.below(self.shape.devices.max(1) as u64) as usize;
            match self.chance.below(8) {
                0 | 1 => {
                    let power = self.chance.chance(300);
                    self.crash(server, power);
                }
                2 | 3 => (0..self.shape.nodes).for_each(|server| self.start(server)),
                4 | 5 if self.shape.devices > 0 => {
                    let role = DeviceRole::ALL[device];
                    lost[device] = !lost[device];
                    if lost[device] {
                        self.lose_device(role);
                    } else {
                        self.return_device(role);
                    }
                }
                _ => backups.push(self.backup()),
            }
            self.wait();
            if self.chance.chance(500) {
                self.run_for(LEASE * 2);
            }
        }
        for (device, _) in lost.iter().enumerate().filter(|(_, lost)| **lost) {
            self.return_device(DeviceRole::ALL[device]);
        }
    }

    /// All power is off, and replicas are not what they were afterwards. One at least is not made anew.
    fn tamper(&mut self, tampering: Tampering, backups: &[Backup]) -> Touched {
        let power = self.chance.chance(300);
        (0..self.shape.nodes).for_each(|server| self.crash(server, power));
        let latest = self.ledger.latest_configuration().epoch;
        let mut touched = Touched {
            voters: Vec::new(),
            had_opened: self.ledger.has_opened(latest),
        };
        let (nodes, devices) = (self.shape.nodes, self.shape.devices);
        let spared = self.chance.below((nodes + devices) as u64) as usize;
        let per_mille = self.chance.between(200, 800);
        for replica in 0..nodes + devices {
            if !self.chance.chance(per_mille) {
                continue;
            }
            let is_anew = match tampering {
                Tampering::MadeAnew => true,
                Tampering::SetBack => false,
                Tampering::Both => self.chance.chance(500),
            };
            // The newest more often than others: little is missing then, and it looks right.
            let age = self.chance.skewed(0, backups.len() as u64 - 1) as usize;
            let backup = &backups[backups.len() - 1 - age];
            let history = self.chance.chance(500);
            if is_anew && replica == spared {
                continue;
            }
            if let Some(device) = replica.checked_sub(nodes) {
                let role = DeviceRole::ALL[device];
                touched.voters.push(Voter::Device(role));
                if is_anew {
                    self.remake_device(role);
                } else {
                    self.set_back_device(role, backup);
                }
            } else {
                touched.voters.push(Voter::Node(self.node_id(replica)));
                if is_anew {
                    self.wipe_local(replica);
                    if history {
                        self.forget_history(replica);
                    }
                } else {
                    self.set_back_local(replica, backup, history);
                }
            }
        }
        touched
    }

    /// The servers start in any order, devices come in between, and in the end all are here.
    fn start_again(&mut self) {
        let mut away = [false; 2];
        for (device, away) in away.iter_mut().enumerate().take(self.shape.devices) {
            *away = self.chance.chance(350);
            if *away {
                self.lose_device(DeviceRole::ALL[device]);
            }
        }
        let mut order: Vec<usize> = (0..self.shape.nodes + self.shape.devices).collect();
        self.chance.shuffle(&mut order);
        for next in order {
            match next.checked_sub(self.shape.nodes) {
                None => self.start(next),
                Some(device) if away[device] => self.return_device(DeviceRole::ALL[device]),
                Some(_) => continue,
            }
            if self.chance.chance(400) {
                self.wait();
            } else {
                let span = self.draw(LEASE, LEASE * 8);
                self.run_for(span);
            }
        }
    }

    /// Whether the cluster goes on by itself. Where voters that nobody touched are enough it must.
    fn goes_on(&mut self, touched: &Touched) -> Result<bool, Unsound> {
        let configuration = self.ledger.latest_configuration().clone();
        let nodes = (0..self.shape.nodes).map(|server| Voter::Node(self.node_id(server)));
        let devices = self.shape.device_set();
        let untouched: Vec<Voter> = nodes
            .chain(devices.iter().map(Voter::Device))
            .filter(|voter| !touched.voters.contains(voter))
            .collect();
        let enough =
            touched.voters.is_empty() || touched.had_opened && self.voters.decide(&configuration, &untouched);
        let serves =
            |world: &World| world.is_over() || world.states().all(|state| state == ServingState::Serving);
        if self.run_until(RECOVERY_MAX, serves) {
            return Ok(true);
        }
        self.found()?;
        if enough {
            let text = format!("{untouched:?} are enough to go on after {configuration}");
            return self
                .liveness("invariant_untouched_replicas_go_on", &text)
                .map(|()| false);
        }
        let silent = self.servers.iter().find(|server| {
            let process = server.process.as_ref();
            process.is_none_or(|process| {
                let status = process.node.status(server.clock.show(self.now));
                status.state != ServingState::Serving && status.verdict.is_empty()
            })
        });
        match silent {
            None => Ok(false),
            Some(server) => {
                let text = format!("n{} does not say what it waits for", server.id);
                self.liveness("invariant_a_node_that_waits_says_why", &text)
                    .map(|()| false)
            }
        }
    }

    fn states(&self) -> impl Iterator<Item = ServingState> {
        self.servers.iter().map(|server| match &server.process {
            Some(process) => process.node.status(server.clock.show(self.now)).state,
            None => ServingState::Starting,
        })
    }

    /// An operator goes on with the newest copy that a node shows, and what is missing there is given up.
    fn overrule(&mut self) -> Result<(), Unsound> {
        let position = |world: &World, server: usize| {
            let server = &world.servers[server];
            let process = server.process.as_ref();
            process.map_or(Position::EMPTY, |process| {
                process.node.status(server.clock.show(world.now)).position
            })
        };
        let newest = (0..self.shape.nodes)
            .max_by_key(|server| position(self, *server).stamp)
            .unwrap_or_default();
        self.log
            .line(self.now, format_args!("an operator goes on with n{newest}"));
        for _ in 0..3 {
            self.call(newest, RequestBody::Takeover { force: true }, OPERATOR_PATIENCE);
            let serves = |world: &World| world.states().any(|state| state == ServingState::Serving);
            if self.run_until(LEASE * 4, serves) {
                return Ok(());
            }
            self.found()?;
        }
        self.liveness("invariant_an_override_serves", "the operator's override")
    }
}
