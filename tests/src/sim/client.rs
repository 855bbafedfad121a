//! The random load: clients on every node that add, remove, replace and query rows, ask again when they do not
//! know, and go to another node when theirs is gone.

use super::asks::{AskEnd, Asker};
use super::happening::Happening;
use super::history::{Call, Cell, Cells, Heard, Instant, Operation};
use super::plan::{Load, Shape};
use super::random::Random;
use super::world::World;
use ccd_core::client::{Answer, Refusal, RequestBody, UpdateRequest};
use ccd_core::database::{Key, Op, Pattern, Precondition, Row, Who};
use ccd_core::ids::{NodeId, RequestId};
use ccd_core::time::Date;
use core::time::Duration;

/// How often a client asks for one update before it gives up not knowing.
const ATTEMPTS_MAX: u32 = 5;

/// One operation that a client is at.
#[derive(Debug)]
struct Work {
    object: usize,
    call: Call,
    request: RequestId,
    /// When it was first asked for; `None` before.
    called: Option<Instant>,
    attempts: u32,
    /// Some attempt may have been done.
    ambiguous: bool,
    waiting: bool,
}

#[derive(Debug)]
struct Client {
    id: u128,
    home: usize,
    sequence: u64,
    work: Option<Work>,
}

/// All clients, and what they did and heard.
#[derive(Debug)]
pub struct Workload {
    load: Load,
    nodes: usize,
    random: Random,
    clients: Vec<Client>,
    next_value: u32,
    /// What was last read of each key: exchanges need a row that may be there.
    known: Vec<Cells>,
    pub history: Vec<Operation>,
    /// Updates whose clients heard that nothing was changed: they must never be seen.
    pub never: Vec<RequestId>,
    pub acked: u64,
    pub operations: usize,
    stopped: bool,
}

impl Workload {
    pub fn new(load: Load, shape: Shape, random: Random) -> Self {
        let clients = (0..load.clients)
            .map(|index| Client {
                id: 0xc0 + index as u128,
                home: index % shape.nodes,
                sequence: 0,
                work: None,
            })
            .collect();
        Self {
            load,
            nodes: shape.nodes,
            random,
            clients,
            next_value: 0,
            known: vec![Cells::new(); load.keys],
            history: Vec::new(),
            never: Vec::new(),
            acked: 0,
            operations: 0,
            stopped: false,
        }
    }

    /// The first key has a synchronization command.
    pub fn has_command(&self) -> bool {
        self.load.command
    }

    /// No client starts anything new.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// What is still open when the history ends may or may not be done.
    pub fn close(&mut self) {
        for client in &mut self.clients {
            if let Some(Work {
                object,
                call,
                called: Some(called),
                waiting,
                ambiguous,
                request,
                ..
            }) = client.work.take()
            {
                if matches!(call, Call::Read { .. }) {
                    continue;
                }
                if waiting || ambiguous {
                    let heard = Heard::Unknown;
                    self.history.push(Operation {
                        object,
                        called,
                        returned: called,
                        call,
                        heard,
                    });
                } else {
                    self.never.push(request);
                }
            }
        }
    }

    fn draw_call(&mut self, object: usize) -> Call {
        let random = &mut self.random;
        let register = random.below(u64::from(self.load.registers)) as u8;
        self.next_value += 1;
        let value = self.next_value;
        let cell = (register, value);
        match random.below(100) {
            0..28 => Call::Add { cell },
            28..34 => Call::AddPair {
                registers: (0, 1),
                value,
            },
            34..46 => Call::Replace { cell },
            46..58 => {
                let known: Vec<Cell> = self.known[object].iter().copied().collect();
                if known.is_empty() {
                    return Call::Add { cell };
                }
                Call::Exchange {
                    from: *random.pick(&known),
                    to: cell,
                }
            }
            58..62 => Call::Clear { register },
            62..85 => Call::Read {
                register: Some(register),
            },
            _ => Call::Read { register: None },
        }
    }
}

impl World {
    /// Clients begin, one after the other.
    pub fn let_clients_begin(&mut self) {
        for client in 0..self.workload.clients.len() {
            self.client_later(client);
        }
    }

    fn client_later(&mut self, client: usize) {
        let max = self.workload.load.think_max.as_nanos() as u64;
        let thinks = Duration::from_nanos(self.workload.random.skewed(100_000, max.max(100_001)));
        self.after(thinks, Happening::Client { client });
    }

    pub(super) fn client_acts(&mut self, index: usize) {
        let load = &mut self.workload;
        if load.clients[index].work.is_none() {
            if load.stopped || load.operations >= load.load.operations_max {
                return;
            }
            load.operations += 1;
            let object = load.random.below(load.load.keys as u64) as usize;
            let call = load.draw_call(object);
            let client = &mut load.clients[index];
            client.sequence += 1;
            let request = RequestId {
                client: client.id,
                sequence: client.sequence,
            };
            client.work = Some(Work {
                object,
                call,
                request,
                called: None,
                attempts: 0,
                ambiguous: false,
                waiting: false,
            });
        }
        let elsewhere = load.random.chance(150);
        let server = if elsewhere {
            load.random.below(load.nodes as u64) as usize
        } else {
            load.clients[index].home
        };
        let timeout = Duration::from_millis(load.random.skewed(200, 5_000));
        let no_wait = load.random.chance(20);
        let Some(work) = load.clients[index].work.as_mut().filter(|work| !work.waiting) else {
            return;
        };
        work.waiting = true;
        let body = body_of(work, no_wait);
        // Some clients do not know of a new server in the place of this one.
        let server = if index.is_multiple_of(2) {
            self.holder(server)
        } else {
            server
        };
        match self.ask(server, Asker::Client(index), body, timeout) {
            Some(token) => {
                let called = self.asks[&token].called;
                if let Some(work) = &mut self.workload.clients[index].work {
                    work.called.get_or_insert(called);
                    work.attempts += 1;
                }
            }
            None => {
                let load = &mut self.workload;
                load.clients[index].home = load.random.below(load.nodes as u64) as usize;
                if let Some(work) = &mut load.clients[index].work {
                    work.waiting = false;
                }
                self.client_later(index);
            }
        }
        // A stale query beside it now and then: it must answer some state that once was.
        if self.workload.random.chance(60) {
            let pattern = Pattern::all(key(
                self.workload.random.below(self.workload.load.keys as u64) as usize
            ));
            let body = RequestBody::Query { pattern, stale: true };
            self.ask(server, Asker::Nobody, body, timeout);
        }
    }

    pub(super) fn client_heard(&mut self, index: usize, called: Instant, returned: Instant, end: AskEnd) {
        self.client_later(index);
        // On a network that repeats messages, a copy may come when the master is no longer busy. TCP does not.
        let repeats = self.faults.weather.repeat_per_mille > 0;
        let load = &mut self.workload;
        let Some(mut work) = load.clients[index].work.take() else {
            return;
        };
        work.waiting = false;
        // The answer may come while the request is being made.
        let called = *work.called.get_or_insert(called);
        let attempts = work.attempts.max(1);
        let object = work.object;
        let heard = match (&work.call, end) {
            (Call::Read { .. }, AskEnd::Reply(Ok(Answer::Rows { rows, .. }))) => {
                let cells: Cells = rows.iter().filter_map(cell_of).collect();
                load.known[object] = cells.clone();
                Some(Heard::Rows(cells))
            }
            (Call::Read { .. }, _) => return,
            (_, AskEnd::Reply(Ok(Answer::Committed { removed, .. }))) => {
                load.acked += 1;
                // An answer from the remembered outcomes does not know the count.
                Some(Heard::Applied { removed })
            }
            (_, AskEnd::Reply(Err(Refusal::Op(_)))) => {
                if !work.ambiguous {
                    load.never.push(work.request);
                }
                Some(if work.ambiguous {
                    Heard::Unknown
                } else {
                    Heard::Refused
                })
            }
            (_, AskEnd::Reply(Err(Refusal::Unknown { .. }) | Ok(_)) | AskEnd::Lost) => {
                work.ambiguous = true;
                None
            }
            (_, AskEnd::Reply(Err(Refusal::Busy))) => {
                work.ambiguous |= repeats;
                None
            }
            (_, AskEnd::Reply(Err(_))) => None,
        };
        let gives_up = attempts >= ATTEMPTS_MAX || load.stopped || load.random.chance(150);
        let heard = match heard {
            Some(heard) => heard,
            None if !gives_up => {
                if load.random.chance(400) {
                    load.clients[index].home = load.random.below(load.nodes as u64) as usize;
                }
                load.clients[index].work = Some(work);
                return;
            }
            None if work.ambiguous => Heard::Unknown,
            None => {
                load.never.push(work.request);
                return;
            }
        };
        load.history.push(Operation {
            object,
            called,
            returned,
            call: work.call,
            heard,
        });
    }
}

pub fn key(object: usize) -> Key {
    Key::new(&format!("K{object}")).expect("a good key")
}

fn register_text(register: u8) -> String {
    format!("r{register}")
}

fn row(object: usize, cell: Cell) -> Row {
    Row::new(key(object), [register_text(cell.0), cell.1.to_string()]).expect("a small row")
}

/// The cell that a row of the load is.
pub fn cell_of(row: &Row) -> Option<Cell> {
    let register = row.values.first()?.strip_prefix('r')?.parse().ok()?;
    Some((register, row.values.get(1)?.parse().ok()?))
}

fn of_register(object: usize, register: u8) -> Pattern {
    Pattern::positional(key(object), [register_text(register)]).with_wildcard(None)
}

fn body_of(work: &Work, no_wait: bool) -> RequestBody {
    match asked(work.object, &work.call) {
        Asked::Rows(pattern) => RequestBody::Query {
            pattern,
            stale: false,
        },
        Asked::Change { preconditions, ops } => {
            RequestBody::Update(update(work.request, preconditions, ops, no_wait))
        }
    }
}

/// What a call is for the database.
#[derive(Debug)]
pub enum Asked {
    Rows(Pattern),
    Change {
        preconditions: Vec<Precondition>,
        ops: Vec<Op>,
    },
}

pub fn asked(object: usize, call: &Call) -> Asked {
    let mut preconditions = Vec::new();
    let ops = match *call {
        Call::Read { register } => {
            return Asked::Rows(match register {
                Some(register) => of_register(object, register),
                None => Pattern::all(key(object)),
            });
        }
        Call::Add { cell } => vec![Op::Add(row(object, cell))],
        Call::AddPair { registers, value } => {
            vec![
                Op::Add(row(object, (registers.0, value))),
                Op::Add(row(object, (registers.1, value))),
            ]
        }
        Call::Replace { cell } => vec![
            Op::Remove(of_register(object, cell.0)),
            Op::Add(row(object, cell)),
        ],
        Call::Exchange { from, to } => {
            preconditions.push(Precondition::RowPresent(row(object, from)));
            vec![
                Op::Remove(Pattern::exact(&row(object, from))),
                Op::Add(row(object, to)),
            ]
        }
        Call::Clear { register } => vec![Op::Remove(of_register(object, register))],
    };
    Asked::Change { preconditions, ops }
}

/// An update as clients of the simulation ask for it.
pub fn update(
    request: RequestId,
    preconditions: Vec<Precondition>,
    ops: Vec<Op>,
    no_wait: bool,
) -> UpdateRequest {
    UpdateRequest {
        request,
        who: Who {
            node: NodeId::new(0),
            uid: 0,
            pid: 1,
            program: "simulation".into(),
        },
        date: Date(1_700_000_000_000),
        reason: None,
        preconditions,
        ops,
        no_wait,
        dry_run: false,
        no_sync: false,
    }
}

/// The format that every key of the load has.
pub fn format(object: usize) -> Op {
    Op::Format {
        key: key(object),
        columns: vec!["register".into(), "value".into()],
    }
}
