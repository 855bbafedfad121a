//! Events and actions in one line each, for the event log.

use super::asks::AskEnd;
use ccd_core::client::{Answer, Reply, RequestBody};
use ccd_core::protocol::{Action, Committed, Event, Message};
use ccd_core::replica::{ReplicaAnswer, ReplicaOp};

/// Longest that one item of the log gets, in characters.
const TEXT_MAX: usize = 600;

fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(TEXT_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

pub fn event(event: &Event) -> String {
    match event {
        Event::Message { from, message: text } => format!("from {from:?}: {}", message(text)),
        Event::Client { client, request, .. } => {
            format!(
                "client {} asks within {:?}: {}",
                client.0,
                request.timeout,
                body(&request.body)
            )
        }
        Event::Replica { ticket, result } => match result {
            Ok(done) => format!("t{} done: {}", ticket.0, replica_answer(done)),
            Err(error) => format!("t{} failed: {:?} {error}", ticket.0, error.kind),
        },
        Event::Staged { result, .. } => format!("staged: {result:?}"),
        Event::CommandDone { ticket, result } => format!("t{} command: {result:?}", ticket.0),
        Event::Problems(problems) => format!("the driver finds {problems:?}"),
        Event::Worked { ticket, .. } => format!("t{} is worked out", ticket.0),
        Event::Disowned { .. }
        | Event::RefusedBy { .. }
        | Event::Timer
        | Event::Reachable { .. }
        | Event::ClientGone { .. }
        | Event::Fenced { .. } => {
            format!("{event:?}")
        }
    }
}

pub fn action(action: &Action) -> String {
    match action {
        Action::Send { to, message: text } => format!("to {to:?}: {}", message(text)),
        Action::Replica { ticket, replica, op } => format!("{replica} t{}: {}", ticket.0, replica_op(op)),
        Action::Reply {
            client,
            reply: answer,
        } => format!("reply {}: {}", client.0, reply(answer)),
        Action::Fence { .. } => format!("{action:?}"),
        Action::RunCommand { ticket, run } => format!(
            "t{} runs {} {} at {:?}",
            ticket.0,
            run.name,
            run.keyword,
            run.database.position()
        ),
        Action::Work { ticket, .. } => format!("t{} works", ticket.0),
        Action::Read { client, .. } => format!("reads on for {}", client.0),
        Action::StopCommand { ticket } => format!("t{} stops", ticket.0),
        Action::Unpack { from, bytes } => format!("unpacks {} bytes from {from:?}", bytes.len()),
        Action::StageInit { init } => format!("stages the nodes {:?}", init.nodes),
        Action::AdoptInit { init } => format!("goes by the nodes {:?}", init.nodes),
        Action::KeepLoss(loss) => format!("keeps the loss of what led to {:?}: {}", loss.told, loss.text),
        Action::Committed(Committed { way, after }) => {
            let before = way.as_ref().map(|(before, _)| before.position());
            format!("told: committed from {before:?} to {:?}", after.position())
        }
        Action::Record(decision) => {
            let configuration = decision
                .configuration
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            format!("{:?} [{configuration}] {}", decision.kind, decision.text)
        }
    }
}

pub fn message(message: &Message) -> String {
    shortened(match message {
        Message::ImageChunk {
            position,
            total,
            offset,
            bytes,
            replaces,
        } => {
            format!(
                "ImageChunk {position:?} {offset}+{} of {total}, replaces {replaces:?}",
                bytes.len()
            )
        }
        Message::UpdateReq { epoch, record } => {
            format!(
                "UpdateReq epoch {epoch} {:?} → {:?} {:?}",
                record.prev, record.next, record.body
            )
        }
        other => format!("{other:?}"),
    })
}

pub fn replica_op(op: &ReplicaOp) -> String {
    shortened(match op {
        ReplicaOp::Append { record, then_survey } => {
            let survey = if *then_survey { ", then survey" } else { "" };
            format!(
                "Append {:?} → {:?}{survey} {:?}",
                record.prev, record.next, record.body
            )
        }
        ReplicaOp::AppendTail { records } => {
            let ends = records.first().zip(records.last());
            let ends = ends.map(|(first, last)| (first.prev, last.next));
            format!("AppendTail {ends:?} {} records", records.len())
        }
        ReplicaOp::WriteImage { database } => format!("WriteImage {:?}", database.position()),
        ReplicaOp::StageImage {
            position,
            len_bytes,
            offset,
            bytes,
        } => format!("StageImage {position:?} {offset}+{} of {len_bytes}", bytes.len()),
        ReplicaOp::AdoptImage { database } => format!("AdoptImage {:?}", database.position()),
        ReplicaOp::Checkpoint { database } => format!("Checkpoint {:?}", database.position()),
        ReplicaOp::KeepBranch { database, reason } => {
            format!("KeepBranch {:?}: {reason}", database.position())
        }
        other => format!("{other:?}"),
    })
}

fn replica_answer(answer: &ReplicaAnswer) -> String {
    shortened(match answer {
        ReplicaAnswer::Loaded(loaded) => format!(
            "loaded {:?} from area {:?}: checkpoint {:?} and {} records; heads {:?}; damage {:?}",
            loaded.position,
            loaded.area,
            loaded.checkpoint.position(),
            loaded.records.len(),
            loaded.heads,
            loaded.damage
        ),
        other => format!("{other:?}"),
    })
}

pub fn body(body: &RequestBody) -> String {
    shortened(format!("{body:?}"))
}

fn reply(reply: &Reply) -> String {
    match reply {
        Ok(Answer::Snapshot(database)) => format!("snapshot {:?}", database.position()),
        other => shortened(format!("{other:?}")),
    }
}

pub fn end(end: &AskEnd) -> String {
    match end {
        AskEnd::Reply(answer) => reply(answer),
        AskEnd::Lost => "lost".into(),
    }
}
