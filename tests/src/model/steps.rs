//! What may happen next, and what follows from it. Proposals are in `propose.rs`, everything about serving in `serve.rs`.

use super::checks;
use super::parts::{
    Area, Conf, Content, DEVICES_MAX, Device, NODES_MAX, Node, Set, State, Write, Written, has,
};
use super::rules::{Rules, Variant};
use stateright::{Model, Property};

/// How much of what a history may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    pub proposals: u8,
    pub updates: u8,
    pub crashes: u8,
    pub overrides: u8,
    /// Copies that are found damaged when their node starts again.
    pub damages: u8,
}

/// The configuration that histories begin with; all its members serve.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub members: Set,
    pub devices: Set,
    pub solo: bool,
    /// Nodes whose processes are down.
    pub down: Set,
}

/// One model.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub nodes: usize,
    pub devices: usize,
    /// With reservations; else by leases alone.
    pub reservations: bool,
    pub start: Start,
    pub limits: Limits,
    pub rules: Rules,
}

/// One event. `node` is whose process does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Begins a proposal with these members; its own copy promises.
    Propose {
        node: usize,
        want: Set,
    },
    /// The same, by an operator's word, whatever the votes say.
    Override {
        node: usize,
    },
    /// Gives its proposal up.
    Abandon {
        node: usize,
    },
    /// Another node is asked for its promise, and gives it.
    Ask {
        node: usize,
        to: usize,
    },
    /// The next step with the reservation of a device.
    Fence {
        node: usize,
        device: usize,
    },
    /// Asks for its ballot block to be written.
    WriteBallot {
        node: usize,
        device: usize,
    },
    /// Asks for what it has to write next on a device, and dies before that has landed.
    DieWriting {
        node: usize,
        device: usize,
    },
    /// What a dead process had in flight lands on the device, or is refused there.
    Land {
        node: usize,
    },
    /// Reads the others' areas after its own ballot has landed.
    Look {
        node: usize,
        device: usize,
    },
    /// Enough have promised: builds the configuration. `returned`: devices outside of the one before vote again.
    Choose {
        node: usize,
        returned: bool,
    },
    /// Another node is asked for its vote, and gives it.
    AskVote {
        node: usize,
        to: usize,
    },
    /// Enough have voted.
    Decide {
        node: usize,
    },
    /// Another member gets the state of the configuration.
    MakeReady {
        node: usize,
        to: usize,
    },
    /// A solo owner writes the state to a device.
    WriteImage {
        node: usize,
        device: usize,
    },
    Open {
        node: usize,
    },
    /// A member that was made ready serves, since another one does.
    Join {
        node: usize,
    },
    /// Begins an update.
    Begin {
        node: usize,
    },
    /// Another member stores it.
    Store {
        node: usize,
        to: usize,
    },
    /// A solo owner writes it to a device.
    WriteUpdate {
        node: usize,
        device: usize,
    },
    /// Reads the others' ballots on a device after the update has landed there.
    LookForClaims {
        node: usize,
        device: usize,
    },
    /// The client hears that it is durable.
    Ack {
        node: usize,
    },
    /// Its lease runs out.
    LeaseEnds {
        node: usize,
    },
    /// Hears of a later configuration from a node, or finds one on a device.
    Hear {
        node: usize,
        from: usize,
    },
    Find {
        node: usize,
        device: usize,
    },
    Crash {
        node: usize,
    },
    Restart {
        node: usize,
    },
    /// The local copy of a node that is down is damaged.
    Damage {
        node: usize,
    },
}

impl Setup {
    fn all_nodes(&self) -> Set {
        (1 << self.nodes) - 1
    }

    pub(super) fn all_devices(&self) -> Set {
        (1 << self.devices) - 1
    }

    fn crash_steps(&self, state: &State, node: usize, steps: &mut Vec<Step>) {
        let it = &state.nodes[node];
        if !it.up {
            steps.push(Step::Restart { node });
            if state.left.damages > 0 && !it.damaged {
                steps.push(Step::Damage { node });
            }
            return;
        }
        if state.left.crashes > 0 {
            steps.push(Step::Crash { node });
        }
        for (from, other) in state.nodes.iter().enumerate() {
            if other.up && other.known.epoch > it.known.epoch {
                steps.push(Step::Hear { node, from });
            }
        }
        for (device, disk) in state.devices.iter().enumerate() {
            if newest_conf(disk).is_some_and(|conf| conf.epoch > it.known.epoch) {
                steps.push(Step::Find { node, device });
            }
        }
    }

    fn take_basic(&self, state: &mut State, step: Step) {
        match step {
            Step::Land { node } => self.land(state, node),
            Step::Hear { node, from } => {
                let conf = state.nodes[from].known;
                state.nodes[node].learn(conf);
            }
            Step::Find { node, device } => {
                if let Some(conf) = newest_conf(&state.devices[device]) {
                    state.nodes[node].learn(conf);
                }
            }
            Step::Crash { node } => crash(state, node),
            Step::DieWriting { node, device } => {
                self.ask_to_write(state, node, device);
                crash(state, node);
            }
            Step::Restart { node } => {
                let node = &mut state.nodes[node];
                node.up = true;
                node.in_flight = None;
                if self.rules.is(Variant::BallotForgotten) {
                    node.ballot = None;
                }
            }
            Step::Damage { node } => {
                state.left.damages -= 1;
                state.nodes[node].damaged = true;
            }
            _ => unreachable!("taken by the other parts"),
        }
    }

    pub(super) fn die_writing(&self, state: &State, node: usize, device: usize, steps: &mut Vec<Step>) {
        if state.left.crashes > 0 {
            steps.push(Step::DieWriting { node, device });
        }
    }

    /// Asks for what this node has to write next on this device.
    pub(super) fn ask_to_write(&self, state: &mut State, node: usize, device: usize) {
        let it = &mut state.nodes[node];
        let what = match (it.proposal, it.round) {
            (Some(_), _) => it.ballot.map(Written::Block),
            (None, Some(round)) => Some(Written::Image(round.next, it.known)),
            (None, None) => Some(Written::Image(it.head, it.known)),
        };
        it.in_flight = what.map(|what| Write {
            device: device as u8,
            what,
        });
    }

    pub(super) fn land(&self, state: &mut State, node: usize) {
        let Some(write) = state.nodes[node].in_flight.take() else {
            return;
        };
        let device = usize::from(write.device);
        let disk = &mut state.devices[device];
        let it = &mut state.nodes[node];
        if self.reservations && !has(disk.registered, node) {
            // A node whose write is refused does not serve until it knows why.
            if it.serving || it.install.is_some() {
                it.stop();
            }
            return;
        }
        let area = &mut disk.areas[node];
        match write.what {
            Written::Block(block) => area.block = Some(block),
            Written::Image(content, conf) => {
                area.content = content;
                area.conf = Some(conf);
            }
        }
        if !it.up {
            return;
        }
        match write.what {
            Written::Block(block) => self.ballot_landed(it, device, &block),
            Written::Image(content, conf) => {
                if let Some(install) = it.install.as_mut().filter(|_| it.known == conf) {
                    install.written |= 1 << device;
                }
                if let Some(round) = it.round.as_mut().filter(|round| round.next == content) {
                    round.stored |= 1 << device;
                }
            }
        }
    }
}

fn crash(state: &mut State, node: usize) {
    state.left.crashes -= 1;
    let node = &mut state.nodes[node];
    node.stop();
    node.up = false;
}

fn newest_conf(disk: &Device) -> Option<Conf> {
    disk.areas
        .iter()
        .filter_map(|area| area.conf)
        .max_by_key(|conf| conf.epoch)
}

impl Model for Setup {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        assert!(self.nodes <= NODES_MAX && self.devices <= DEVICES_MAX);
        let Start {
            members,
            devices,
            solo,
            down,
        } = self.start;
        let conf = Conf {
            epoch: 1,
            solo,
            forced: false,
            members,
            nodes: self.all_nodes(),
            devices,
            proposer: members.trailing_zeros() as u8,
            base: Content::default(),
            base_writers: (0, 0),
        };
        let content = Content::default().opened(1);
        let nodes = (0..self.nodes)
            .map(|index| {
                let member = has(members, index);
                let holds = member && !solo;
                Node {
                    known: conf,
                    ballot: None,
                    copy: if holds { content } else { Content::default() },
                    damaged: false,
                    up: !has(down, index),
                    invited: false,
                    serving: member,
                    leased: member,
                    head: if member { content } else { Content::default() },
                    proposal: None,
                    install: None,
                    round: None,
                    in_flight: None,
                }
            })
            .collect();
        let owner = members.trailing_zeros() as usize;
        let devices = (0..self.devices)
            .map(|device| {
                let mut areas = [Area::default(); NODES_MAX];
                if solo && has(devices, device) {
                    areas[owner] = Area {
                        block: None,
                        content,
                        conf: Some(conf),
                    };
                }
                Device {
                    areas,
                    registered: if self.reservations { members } else { 0 },
                    holder: self.reservations.then_some(owner as u8),
                }
            })
            .collect();
        vec![State {
            nodes,
            devices,
            decided: vec![conf],
            acked: Content::default(),
            overruled: 0,
            left: self.limits,
            wrong: None,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        // What comes after something wrong may only follow from it.
        if state.wrong.is_some() {
            return;
        }
        for node in 0..self.nodes {
            if state.nodes[node].in_flight.is_some() {
                steps.push(Step::Land { node });
            }
            self.crash_steps(state, node, steps);
            if state.nodes[node].up {
                self.proposal_steps(state, node, steps);
                self.serving_steps(state, node, steps);
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Land { .. }
            | Step::Hear { .. }
            | Step::Find { .. }
            | Step::Crash { .. }
            | Step::DieWriting { .. }
            | Step::Restart { .. }
            | Step::Damage { .. } => self.take_basic(&mut state, step),
            Step::Propose { .. }
            | Step::Override { .. }
            | Step::Abandon { .. }
            | Step::Ask { .. }
            | Step::Fence { .. }
            | Step::WriteBallot { .. }
            | Step::Look { .. }
            | Step::Choose { .. }
            | Step::AskVote { .. }
            | Step::Decide { .. } => self.take_proposal(&mut state, step),
            Step::MakeReady { .. }
            | Step::WriteImage { .. }
            | Step::Open { .. }
            | Step::Join { .. }
            | Step::Begin { .. }
            | Step::Store { .. }
            | Step::WriteUpdate { .. }
            | Step::LookForClaims { .. }
            | Step::Ack { .. }
            | Step::LeaseEnds { .. } => self.take_serving(&mut state, step),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        checks::properties(self)
    }
}
