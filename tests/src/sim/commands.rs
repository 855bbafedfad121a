//! Synchronization commands of the simulated servers: each does what its name says, and every run is written down.
//!
//! Scenarios name them and read what was run; random histories have one that does anything. What always holds is checked as
//! they run: one at a time on a node, each freeze followed by its unfreeze, and an unfreeze says what the database shows.

use super::happening::Happening;
use super::moment::Moment;
use super::random::Random;
use super::unsound::Unsound;
use super::world::World;
use ccd_core::database::{Key, Op, Row};
use ccd_core::ids::Position;
use ccd_core::protocol::{CommandFailure, CommandRun, Event, Ticket};
use ccd_core::synchronization::{Keyword, Operation, SYNC_COLUMNS, SYNC_KEY};
use core::time::Duration;
use std::collections::BTreeMap;

/// The option `sync_timeout_ms` of simulated clusters.
pub const SYNC_TIMEOUT: Duration = Duration::from_millis(800);

/// What a quick command takes at most.
const QUICK: Duration = Duration::from_millis(3);

/// What a command does on a server, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    Agrees,
    Refuses,
    /// Agrees after this time.
    Slow(Duration),
    /// Until it is killed.
    NeverEnds,
    /// Any of these, while faults are on.
    Anything,
}

/// A command that was run.
#[derive(Clone, Debug)]
pub struct Ran {
    pub server: usize,
    /// Which start of the server's process it was.
    pub run: u64,
    pub at: Moment,
    pub name: String,
    pub keyword: Keyword,
    pub row: Option<String>,
    /// Of the database that it was given.
    pub position: Position,
    pub nodes: usize,
    pub nodes_up: usize,
}

/// What a node's commands are at, for the invariants.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    /// The state it is for, and what was run.
    Frozen {
        at: Position,
        names: Vec<String>,
    },
    Thawing,
}

/// All commands of all servers.
#[derive(Debug)]
pub struct Commands {
    random: Random,
    /// What a command does where it does not do what its name says.
    special: BTreeMap<(usize, String), Behaviour>,
    pub ran: Vec<Ran>,
    /// What runs now on each server.
    running: BTreeMap<usize, (u64, Ticket)>,
    stages: BTreeMap<(usize, u64), Stage>,
}

impl Commands {
    pub fn new(random: Random) -> Self {
        Self {
            random,
            special: BTreeMap::new(),
            ran: Vec::new(),
            running: BTreeMap::new(),
            stages: BTreeMap::new(),
        }
    }

    /// On this server, this command does something of its own from now on.
    pub fn behave(&mut self, server: usize, name: &str, behaviour: Behaviour) {
        self.special.insert((server, name.to_owned()), behaviour);
    }

    /// Keywords of what was run on this server, in order.
    pub fn keywords(&self, server: usize) -> Vec<&'static str> {
        let here = self.ran.iter().filter(|ran| ran.server == server);
        here.map(|ran| ran.keyword.name()).collect()
    }

    fn behaviour(&self, server: usize, name: &str) -> Behaviour {
        let special = self.special.get(&(server, name.to_owned()));
        special.copied().unwrap_or(match name {
            "refuses" => Behaviour::Refuses,
            "slow" => Behaviour::Slow(Duration::from_millis(300)),
            "never-ends" => Behaviour::NeverEnds,
            "anything" => Behaviour::Anything,
            _ => Behaviour::Agrees,
        })
    }

    /// How long it takes, and how it ends.
    fn outcome(
        &mut self,
        behaviour: Behaviour,
        faulty: bool,
        run: &CommandRun,
    ) -> (Duration, Result<(), CommandFailure>) {
        let quick = Duration::from_nanos(self.random.skewed(20_000, QUICK.as_nanos() as u64));
        let behaviour = match behaviour {
            Behaviour::Anything if !faulty => Behaviour::Agrees,
            Behaviour::Anything => match self.random.below(100) {
                0..80 => Behaviour::Agrees,
                80..88 => Behaviour::Refuses,
                88..97 => Behaviour::Slow(Duration::from_millis(self.random.skewed(5, 1_000))),
                _ => Behaviour::NeverEnds,
            },
            other => other,
        };
        let killed = || {
            let stderr = String::from("still at it");
            let after = run.limit;
            Err(CommandFailure::TimedOut { after, stderr })
        };
        match behaviour {
            Behaviour::Slow(span) if span < run.limit => (span, Ok(())),
            Behaviour::Slow(_) | Behaviour::NeverEnds => (run.limit, killed()),
            Behaviour::Refuses if matches!(run.keyword, Keyword::Pre(_)) => {
                let failure = CommandFailure::Failed {
                    how: String::from("exit code 3"),
                    stderr: format!("no room on node {}", run.me),
                };
                (quick, Err(failure))
            }
            _ => (quick, Ok(())),
        }
    }

    /// Takes note of a command that begins.
    fn begin(
        &mut self,
        server: usize,
        run: u64,
        at: Moment,
        ticket: Ticket,
        command: &CommandRun,
    ) -> Result<(), Unsound> {
        let unsound = |invariant, text| Err(Unsound::new(invariant, text));
        let (keyword, position) = (command.keyword, command.database.position());
        self.ran.push(Ran {
            server,
            run,
            at,
            name: command.name.to_string(),
            keyword,
            row: command.row.clone(),
            position,
            nodes: command.nodes,
            nodes_up: command.nodes_up,
        });
        if let Some((of, other)) = self.running.insert(server, (run, ticket))
            && of == run
        {
            let text = format!("n{server} runs {ticket:?} beside {other:?}");
            return unsound("invariant_one_command_at_a_time", text);
        }
        let stage = self.stages.entry((server, run)).or_insert(Stage::Idle);
        let before = std::mem::replace(stage, Stage::Thawing);
        if let Keyword::Pre(_) = keyword {
            let mut names = match &before {
                Stage::Frozen { names, .. } => names.clone(),
                _ => Vec::new(),
            };
            names.push(command.name.to_string());
            *stage = Stage::Frozen { at: position, names };
        }
        match (before, keyword) {
            (Stage::Idle, Keyword::Post(_) | Keyword::PostRollback) => unsound(
                "invariant_an_unfreeze_follows_a_freeze",
                format!("n{server} runs {keyword} without a freeze"),
            ),
            (Stage::Frozen { at, names }, Keyword::Pre(_))
                if at != position || names.iter().any(|name| *name == *command.name.as_str()) =>
            {
                unsound(
                    "invariant_a_freeze_ends_before_the_next",
                    format!(
                        "n{server} runs {keyword} of {} at {position:?} in the freeze of {at:?} {names:?}",
                        command.name
                    ),
                )
            }
            (Stage::Frozen { at, .. }, Keyword::Post(_)) if at == position => unsound(
                "invariant_a_command_after_an_update_sees_it",
                format!("n{server} runs {keyword} at {position:?}, as before the update"),
            ),
            _ => Ok(()),
        }
    }

    /// Whether this one was still running.
    fn end(&mut self, server: usize, run: u64, ticket: Ticket) -> bool {
        let runs = self.running.get(&server) == Some(&(run, ticket));
        if runs {
            self.running.remove(&server);
        }
        runs
    }
}

impl World {
    pub(super) fn run_command(&mut self, index: usize, ticket: Ticket, command: &CommandRun) {
        let run = self.servers[index].run;
        let behaviour = self.commands.behaviour(index, command.name.as_str());
        let (span, result) = self.commands.outcome(behaviour, self.faulty, command);
        let begun = self.commands.begin(index, run, self.now, ticket, command);
        self.judge(begun);
        let span = self.servers[index].clock.stretch(span);
        self.after(
            span,
            Happening::CommandEnds {
                server: index,
                run,
                ticket,
                result: Box::new(result),
            },
        );
    }

    pub(super) fn stop_command(&mut self, index: usize, ticket: Ticket) {
        let run = self.servers[index].run;
        let result = Box::new(Err(CommandFailure::Stopped));
        self.after(
            Duration::from_micros(50),
            Happening::CommandEnds {
                server: index,
                run,
                ticket,
                result,
            },
        );
    }

    pub(super) fn command_ends(
        &mut self,
        index: usize,
        run: u64,
        ticket: Ticket,
        result: Result<(), CommandFailure>,
    ) {
        if self.commands.end(index, run, ticket) && self.servers[index].run == run {
            self.tell(index, Event::CommandDone { ticket, result });
        }
    }
}

/// Gives the key this command, with the format of the rows that do so.
pub fn set_command(key: &Key, name: &str) -> Vec<Op> {
    let commands = Key::new(SYNC_KEY).expect("a good key");
    let row = Row::new(commands.clone(), [key.as_str(), name]).expect("a small row");
    let format = Op::Format {
        key: commands,
        columns: SYNC_COLUMNS.map(String::from).to_vec(),
    };
    vec![format, Op::Add(row)]
}

/// `post_add`, or what follows when the update is not there.
pub fn unfreeze_of(operation: Operation, committed: bool) -> &'static str {
    if committed {
        Keyword::Post(operation).name()
    } else {
        Keyword::PostRollback.name()
    }
}
