//! Carries out what nodes ask for, and shows each action to the ledger before it has any effect.

use super::asks::{AskEnd, Asker};
use super::brief;
use super::happening::Happening;
use super::ledger::Place;
use super::unsound::Unsound;
use super::world::{Sabotage, World};
use ccd_core::client::{Answer, ClientToken, Refusal, Reply, RequestBody};
use ccd_core::configuration::Configuration;
use ccd_core::database::{Pattern, Row};
use ccd_core::ids::{Generation, NodeId, Position, Stamp};
use ccd_core::protocol::{Action, Decision, DecisionKind, Event, LongRead, Message, Ticket, Work};
use ccd_core::replica::ReplicaOp;
use ccd_core::reservation::FenceOp;
use core::time::Duration;

/// How long a driver decodes what came in pieces.
const UNPACKING_MIN: Duration = Duration::from_micros(20);
const UNPACKING_MAX: Duration = Duration::from_millis(400);

/// How much later than its time-out a request may be answered: the daemon's own work, and the clock's grain.
const ANSWER_SLACK: Duration = Duration::from_millis(60);

/// How long reads and updates take that are worked out beside the loop.
const READ_SPANS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_micros(200),
    Duration::from_millis(3),
    Duration::from_millis(20),
];
/// Between two looks at whether a stopped process goes on.
const STOPPED_SPAN: Duration = Duration::from_millis(10);

impl World {
    pub(super) fn perform(&mut self, index: usize, actions: Vec<Action>) {
        let mut actions = actions.into_iter();
        while let Some(action) = actions.next() {
            if self.dies_before(index, &action) {
                self.log.line(
                    self.now,
                    format_args!("n{index} dies before: {}", brief::action(&action)),
                );
                self.crash(index, false);
                return;
            }
            if self.faulty && changes_something(&action) {
                if self.chance.chance(self.faults.crash_at_action_per_mille) {
                    let power = self.chance.chance(300);
                    self.log.line(
                        self.now,
                        format_args!("n{index} dies before: {}", brief::action(&action)),
                    );
                    self.crash(index, power);
                    let down = self.draw(Duration::from_millis(50), Duration::from_secs(6));
                    self.after(down, Happening::Start { server: index });
                    return;
                }
                if self.chance.chance(self.faults.pause_at_action_per_mille) {
                    self.pause(index);
                    let still = self.draw(Duration::from_millis(50), Duration::from_secs(6));
                    self.after(still, Happening::Resume { server: index });
                }
            }
            if let Some(stopped) = &mut self.servers[index].stopped {
                stopped.actions.push(action);
                stopped.actions.extend(actions);
                return;
            }
            if self.log.is_recording() {
                self.log
                    .line(self.now, format_args!("n{index} -> {}", brief::action(&action)));
            }
            self.perform_one(index, action);
        }
    }

    /// Whether this is the action before which a scenario wants the server to die.
    fn dies_before(&mut self, index: usize, action: &Action) -> bool {
        let Some((_, left)) = self
            .dies_after
            .as_mut()
            .filter(|(server, _)| *server == index && changes_something(action))
        else {
            return false;
        };
        if *left > 0 {
            *left -= 1;
            return false;
        }
        self.dies_after = None;
        true
    }

    fn perform_one(&mut self, index: usize, action: Action) {
        match action {
            Action::Send { to, message } => {
                self.witness_message(index, &message);
                self.send(index, self.server_at(index, to), &message);
            }
            Action::Replica { ticket, replica, op } => {
                self.witness_op(index, &op);
                let result = self.invariant_removed_servers_write_nothing(index, replica, &op);
                self.judge(result);
                let result = self.invariant_one_server_votes_as_a_node(index, replica, &op);
                self.judge(result);
                self.submit_op(index, ticket, replica, op);
            }
            Action::Fence { ticket, device, op } => self.submit_fence(index, ticket, device, op),
            Action::Unpack { from, bytes } => self.unpack(index, from, &bytes),
            Action::StageInit { init } => self.stage_init(index, init),
            Action::AdoptInit { init } => self.adopt_init(index, init),
            Action::Reply { client, reply } => self.on_reply(index, client, reply),
            Action::Work { ticket, work } => self.work(index, ticket, work),
            Action::Read { client, read } => self.begin_read(index, client, read),
            Action::RunCommand { ticket, run } => self.run_command(index, ticket, &run),
            Action::StopCommand { ticket } => self.stop_command(index, ticket),
            Action::KeepLoss(loss) => self.servers[index].losses.push(loss),
            Action::Committed(committed) => self.witness_committed(index, &committed),
            Action::Record(decision) => {
                let decided = matches!(decision.kind, DecisionKind::Decided | DecisionKind::Opened);
                if let Some(configuration) = decision.configuration.as_ref().filter(|_| decided) {
                    self.witness_decided(index, configuration);
                    if decision.kind == DecisionKind::Decided {
                        self.may_die_deciding(index);
                    }
                    if decision.kind == DecisionKind::Opened {
                        self.note_two_runs(index);
                        self.witness_opened(index, configuration);
                        self.ledger.on_opened(configuration);
                    }
                }
                let believed = invariant_honest_nodes_are_believed(index, &decision);
                self.judge(believed);
                let missed = self.invariant_nothing_is_missed_on_devices_that_keep_it(index, &decision);
                self.judge(missed);
                let kept = self.invariant_what_is_told_is_kept(index, &decision);
                self.judge(kept);
                self.servers[index].decisions.push(decision);
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: &Message) {
        // A copy of a server has no network.
        if self.servers[from].is_copy() {
            return;
        }
        let bytes = postcard::to_allocvec(message).expect("messages are plain data");
        if self.network.swallows(from, to, bytes.len()) {
            return;
        }
        let is_copy = match message {
            Message::ImageChunk { .. } => true,
            Message::Tail { records, .. } => !records.is_empty(),
            _ => false,
        };
        if is_copy {
            self.copies.push((from, to));
        }
        // Without a process there is no connection; a new process gets nothing that was sent to the old one.
        if to >= self.servers.len() || self.servers[to].process.is_none() {
            return;
        }
        if !self.are_connected(from, to) {
            self.refuse(from, to);
            return;
        }
        let run = self.servers[to].run;
        for delay in self.network.route(from, to) {
            self.after(
                delay,
                Happening::Deliver {
                    from,
                    to,
                    run,
                    bytes: bytes.clone(),
                },
            );
        }
    }

    /// A large message came in pieces: it is decoded beside everything else.
    fn unpack(&mut self, index: usize, from: NodeId, bytes: &[u8]) {
        let message: Message = postcard::from_bytes(bytes).expect("it was encoded by a node");
        self.witness_message(index, &message);
        let takes = self.draw(UNPACKING_MIN, UNPACKING_MAX);
        let (server, run) = (index, self.servers[index].run);
        let event = Box::new(Event::Message { from, message });
        self.after(takes, Happening::Answer { server, run, event });
    }

    fn witness_message(&mut self, index: usize, message: &Message) {
        match message {
            Message::Decided(configuration) | Message::Install { configuration, .. } => {
                self.witness_decided(index, configuration);
            }
            Message::UpdateReq { record, .. } => {
                let result = self.ledger.on_record(record);
                self.judge(result);
            }
            Message::Tail { records, .. } => {
                for record in records {
                    let result = self.ledger.on_record(record);
                    self.judge(result);
                }
            }
            _ => {}
        }
    }

    fn witness_op(&mut self, index: usize, op: &ReplicaOp) {
        match op {
            ReplicaOp::Append { record, .. } => {
                let result = self.ledger.on_record(record);
                self.judge(result);
            }
            ReplicaOp::AppendTail { records } => {
                for record in records {
                    let result = self.ledger.on_record(record);
                    self.judge(result);
                }
            }
            ReplicaOp::KeepBranch { .. } if self.damaged => {}
            ReplicaOp::WriteImage { database }
            | ReplicaOp::AdoptImage { database }
            | ReplicaOp::Checkpoint { database }
            | ReplicaOp::KeepBranch { database, .. } => {
                let result = self.ledger.invariant_equal_stamp_equal_content(database);
                self.judge(result);
            }
            ReplicaOp::WriteConfiguration { configuration } => self.witness_decided(index, configuration),
            _ => {}
        }
    }

    fn witness_decided(&mut self, index: usize, configuration: &Configuration) {
        if configuration.is_genesis() {
            return;
        }
        match self.ledger.on_decided(configuration) {
            Ok(true) => {
                self.log.line(
                    self.now,
                    format_args!("DECIDED {configuration} from {:?}", configuration.base),
                );
                let result = self
                    .voters
                    .invariant_decided_by_voters(&self.ledger, configuration);
                self.judge(result);
            }
            Ok(false) => {}
            Err(unsound) => self.judge_decision(index, configuration, unsound),
        }
    }

    fn on_reply(&mut self, index: usize, client: ClientToken, reply: Reply) {
        let token = client.0;
        let waits = self.servers[index]
            .process
            .as_mut()
            .is_some_and(|process| process.asks.remove(&token));
        if !waits {
            if !self.asks.contains_key(&token) {
                let text = format!("n{index} answers {client:?}, which asked nothing");
                self.judge(Err(Unsound::new("invariant_one_reply_a_request", text)));
            }
            return;
        }
        let reply = self.sabotaged(token, reply);
        let result = self.check_reply(token, &reply);
        self.judge(result);
        self.end_ask(token, AskEnd::Reply(reply));
    }

    /// What a driver works out beside the loop. How long it takes goes by its ticket, so that no other draw of chance moves.
    fn work(&mut self, server: usize, ticket: Ticket, work: Work) {
        let run = self.servers[server].run;
        let span = READ_SPANS[(ticket.0 % READ_SPANS.len() as u64) as usize];
        let span = self.servers[server].clock.stretch(span);
        if work.is_dry_run() {
            self.dry_runs_worked[server] += 1;
        }
        let worked = work.run();
        let event = Box::new(Event::Worked { ticket, worked });
        self.after(span, Happening::Answer { server, run, event });
    }

    /// A read that is finished beside the loop, at once or a little later: by its token, so that no other draw of chance moves.
    fn begin_read(&mut self, server: usize, client: ClientToken, read: LongRead) {
        let span = READ_SPANS[(client.0 % READ_SPANS.len() as u64) as usize];
        self.go_on_reading(server, client, read, span);
    }

    fn go_on_reading(&mut self, server: usize, client: ClientToken, read: LongRead, span: Duration) {
        let run = self.servers[server].run;
        let span = self.servers[server].clock.stretch(span);
        self.after(
            span,
            Happening::ReadEnds {
                server,
                run,
                client,
                read,
            },
        );
    }

    pub(super) fn read_ends(&mut self, server: usize, run: u64, client: ClientToken, read: LongRead) {
        if self.servers[server].run != run {
            return;
        }
        if self.servers[server].stopped.is_some() {
            // Its threads stand still as well.
            return self.go_on_reading(server, client, read, STOPPED_SPAN);
        }
        self.on_reply(server, client, read.finish());
    }

    /// The direct checks of what a client hears, by what the ledger knows.
    fn check_reply(&mut self, token: u64, reply: &Reply) -> Result<(), Unsound> {
        let ask = &self.asks[&token];
        let (seen, server) = (ask.seen, ask.server);
        match (&ask.body, reply) {
            (RequestBody::Query { pattern, stale }, Ok(Answer::Rows { position, rows })) => {
                let (pattern, stale, position) = (pattern.clone(), *stale, *position);
                let place = self.invariant_rows_are_those_of_their_position(&pattern, position, rows)?;
                if stale {
                    return Ok(());
                }
                if let Err(unsound) = self.invariant_no_strict_query_stale(&pattern, seen, place, rows) {
                    let seen = self.ledger.position(seen).stamp;
                    return self.judge_answer(server, seen, unsound);
                }
                self.invariant_committed_before_it_is_said(position, "the answer to a strict query")?;
                self.ledger.on_seen(place, "the answer to a strict query")
            }
            (RequestBody::Snapshot { stale }, Ok(Answer::Snapshot(database))) => {
                let stale = *stale;
                self.ledger.invariant_equal_stamp_equal_content(database)?;
                let place = self.ledger.find(database.position()).expect("just found");
                if stale {
                    Ok(())
                } else {
                    self.ledger.on_seen(place, "a snapshot")
                }
            }
            (RequestBody::Update(update), Ok(Answer::Committed { position, .. })) => {
                self.invariant_committed_before_it_is_said(*position, "an ack")?;
                self.ledger.on_ack(update.request, *position)
            }
            (
                RequestBody::Outcome { request },
                Ok(Answer::Outcome {
                    committed: Some(generation),
                }),
            ) => self.ledger.on_outcome(*request, *generation),
            (RequestBody::Leave, Ok(Answer::Done)) => {
                self.servers[server].left_in = Some(self.servers[server].run);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn invariant_rows_are_those_of_their_position(
        &self,
        pattern: &Pattern,
        position: Position,
        rows: &[Row],
    ) -> Result<Place, Unsound> {
        let name = "invariant_rows_are_those_of_their_position";
        let Some(place) = self.ledger.find(position) else {
            return Err(Unsound::new(
                name,
                format!("an answer names {position:?}, which nobody ever reached"),
            ));
        };
        if self.ledger.database(place).query(pattern).as_deref() != Ok(rows) {
            return Err(Unsound::new(
                name,
                format!("an answer at {position:?} has other rows: {rows:?}"),
            ));
        }
        Ok(place)
    }

    fn invariant_no_strict_query_stale(
        &self,
        pattern: &Pattern,
        seen: Place,
        place: Place,
        rows: &[Row],
    ) -> Result<(), Unsound> {
        // A node may still stand before an update that does not touch the key.
        if self.ledger.is_ancestor(seen, place)
            || self.ledger.is_branch(seen, place)
            || self.ledger.was_left_behind(seen)
            || self.ledger.database(seen).query(pattern).as_deref() == Ok(rows)
        {
            return Ok(());
        }
        let text = format!(
            "answered from {:?} although {:?} had been seen before the query",
            self.ledger.position(place),
            self.ledger.position(seen)
        );
        Err(Unsound::new("invariant_no_strict_query_stale", text))
    }

    fn sabotaged(&mut self, token: u64, reply: Reply) -> Reply {
        let Some(sabotage) = self.sabotage else {
            return reply;
        };
        if !self.chance.chance(100) {
            return reply;
        }
        let body = &self.asks[&token].body;
        match (sabotage, &reply) {
            (Sabotage::StaleAnswers, Ok(Answer::Rows { .. })) => {
                let same = |ask: &&super::asks::Ask| ask.body == *body;
                let earlier = self.asks.values().filter(same).find_map(|ask| match &ask.end {
                    Some(AskEnd::Reply(Ok(Answer::Rows { position, rows }))) => {
                        Some((*position, rows.clone()))
                    }
                    _ => None,
                });
                earlier.map_or(reply, |(position, rows)| Ok(Answer::Rows { position, rows }))
            }
            (Sabotage::FalseAcks, Err(Refusal::NotServing { .. } | Refusal::Op(_)))
                if matches!(body, RequestBody::Update(_)) =>
            {
                let position = self.ledger.position(self.ledger.seen());
                let generation = Generation(position.stamp.generation.0 + 1);
                let stamp = Stamp {
                    generation,
                    ..position.stamp
                };
                Ok(Answer::Committed {
                    position: Position { stamp, ..position },
                    removed: Some(0),
                })
            }
            (Sabotage::FalseRollbacks, Ok(Answer::Committed { .. })) => Err(Refusal::RolledBack {
                why: "sabotage".into(),
            }),
            _ => reply,
        }
    }

    /// A request ends for its client.
    pub(super) fn end_ask(&mut self, token: u64, end: AskEnd) {
        let instant = self.instant();
        if self.log.is_recording() {
            self.log
                .line(self.now, format_args!("ask {token} ends: {}", brief::end(&end)));
        }
        let Some(ask) = self.asks.get_mut(&token).filter(|ask| ask.end.is_none()) else {
            return;
        };
        let called = ask.called;
        ask.end = Some(end.clone());
        if let Asker::Client(client) = ask.asker {
            self.client_heard(client, called, instant, end);
        }
    }

    /// How long a client waits for a process that is alive.
    pub(super) fn patience(&self, index: usize, timeout: Duration) -> Duration {
        self.servers[index].clock.stretch(timeout) + ANSWER_SLACK
    }

    /// A request should have been answered by now: every request is answered within its time-out.
    pub(super) fn ask_overdue(&mut self, token: u64) {
        let ask = &self.asks[&token];
        if ask.end.is_some() {
            return;
        }
        let (index, timeout, asked_at) = (ask.server, ask.timeout, ask.asked_at);
        let server = &self.servers[index];
        if server.stopped.is_some() {
            return self.hang_up(token);
        }
        let resumed_at = server.resumed_at;
        let patience = self.patience(index, timeout);
        if resumed_at >= asked_at && self.now < resumed_at + patience {
            self.at(resumed_at + patience, Happening::AskOverdue { token });
            return;
        }
        let text = format!(
            "n{index} has not answered {} within {timeout:?}",
            brief::body(&self.asks[&token].body)
        );
        self.judge(Err(Unsound::new("invariant_requests_are_answered_in_time", text)));
    }
}

/// What nodes send and store in a simulated history is what nodes send and store: none of it is refused as impossible.
fn invariant_honest_nodes_are_believed(index: usize, decision: &Decision) -> Result<(), Unsound> {
    let refused = [
        "refused a message of node",
        "refused the blocks of node",
        "does not fit the init database",
    ];
    if refused.iter().any(|part| decision.text.contains(part)) {
        let text = format!("n{index}: {}", decision.text);
        return Err(Unsound::new("invariant_honest_nodes_are_believed", text));
    }
    Ok(())
}

/// Whether it matters that a process dies or stands still just before this.
fn changes_something(action: &Action) -> bool {
    match action {
        Action::Send { message, .. } => {
            !matches!(message, Message::Heartbeat(_) | Message::HeartbeatAck { .. })
        }
        Action::Replica { op, .. } => !matches!(op, ReplicaOp::WriteHeartbeat { .. } | ReplicaOp::Survey),
        Action::Reply { reply, .. } => matches!(reply, Ok(Answer::Committed { .. })),
        Action::Fence { op, .. } => !matches!(op, FenceOp::Look),
        Action::StageInit { .. }
        | Action::AdoptInit { .. }
        | Action::RunCommand { .. }
        | Action::Read { .. }
        | Action::Work { .. }
        | Action::KeepLoss(_)
        | Action::Unpack { .. } => true,
        Action::Record(_) | Action::Committed(_) | Action::StopCommand { .. } => false,
    }
}
