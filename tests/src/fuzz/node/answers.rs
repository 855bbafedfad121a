//! Answers of replicas that say something else than what stands there, and blocks that stand there and should not.

use super::bench::{Bench, node_id};
use super::choices::{Choices, Seen};
use super::values;
use ccd_core::configuration::{BallotBlock, Configuration};
use ccd_core::database::{Database, Record};
use ccd_core::ids::{Incarnation, NodeSet, RegionId, Stamp};
use ccd_core::replica::{
    AreaSurvey, Heartbeat, Loaded, ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp, Survey,
};
use std::sync::Arc;

const ERRORS: [ReplicaErrorKind; 8] = [
    ReplicaErrorKind::Io,
    ReplicaErrorKind::TimedOut,
    ReplicaErrorKind::Poisoned,
    ReplicaErrorKind::Foreign,
    ReplicaErrorKind::Damaged,
    ReplicaErrorKind::Full,
    ReplicaErrorKind::Fenced,
    ReplicaErrorKind::NotSupported,
];

/// Why an operation failed, whatever it did.
pub fn error(choices: &mut Choices<'_>) -> ReplicaError {
    ReplicaError {
        kind: ERRORS[choices.below(ERRORS.len())],
        text: "it failed".to_owned(),
    }
}

/// What comes in place of an answer.
pub fn damage(
    answer: Result<ReplicaAnswer, ReplicaError>,
    choices: &mut Choices<'_>,
    seen: &mut Seen,
    nodes: usize,
) -> Result<ReplicaAnswer, ReplicaError> {
    if choices.rarely(4) {
        return Err(error(choices));
    }
    match answer {
        Ok(ReplicaAnswer::Survey(mut survey)) => {
            damage_survey(&mut survey, choices, seen, nodes);
            Ok(ReplicaAnswer::Survey(survey))
        }
        Ok(ReplicaAnswer::Appended {
            survey,
            journal_used_percent: _,
        }) => {
            let survey = survey.map(|mut survey| {
                damage_survey(&mut survey, choices, seen, nodes);
                survey
            });
            Ok(ReplicaAnswer::Appended {
                survey,
                journal_used_percent: choices.byte(),
            })
        }
        Ok(ReplicaAnswer::Loaded(loaded)) => {
            Ok(ReplicaAnswer::Loaded(damaged_load(loaded, choices, seen, nodes)))
        }
        other => other,
    }
}

fn damage_survey(survey: &mut Survey, choices: &mut Choices<'_>, seen: &mut Seen, nodes: usize) {
    match choices.below(8) {
        0 => survey.region = RegionId([choices.byte(); 16]),
        1 => survey.image_bytes_max = [0, u64::MAX, 1][choices.below(3)],
        2 => survey.areas.truncate(choices.below(3)),
        3 => survey.areas.push(AreaSurvey {
            node: node_id(choices.below(32)),
            heartbeat: heartbeat(choices, seen, nodes),
            heartbeat_before: None,
            ballot: None,
            configuration: None,
            damaged: false,
        }),
        _ => {}
    }
    let count = survey.areas.len().max(1);
    let Some(area) = survey.areas.get_mut(choices.below(count)) else {
        return;
    };
    match choices.below(6) {
        0 => area.damaged = !area.damaged,
        1 => {
            area.heartbeat_before = area.heartbeat.take();
            area.heartbeat = heartbeat(choices, seen, nodes);
        }
        2 => area.ballot = ballot(area.ballot.as_ref(), choices, seen, nodes),
        3 => area.configuration = configuration(area.configuration.as_ref(), choices, seen, nodes),
        4 => area.configuration = None,
        _ => area.ballot = None,
    }
}

fn damaged_load(mut loaded: Loaded, choices: &mut Choices<'_>, seen: &mut Seen, nodes: usize) -> Loaded {
    match choices.below(5) {
        0 => loaded.damage = Some("a block is damaged".to_owned()),
        1 => {
            let position = values::new(choices, seen, nodes).unwrap_or_default();
            loaded.heads.push((node_id(choices.below(32)), position));
        }
        2 => loaded.heads.clear(),
        3 => {
            // An older state of it.
            loaded.records.truncate(choices.below(4));
            let last = loaded.records.last().map(|record| record.next);
            loaded.position = last.unwrap_or(loaded.checkpoint.position());
        }
        _ => {
            loaded.checkpoint = Database::default();
            loaded.records = Vec::new();
            loaded.position = loaded.checkpoint.position();
        }
    }
    loaded
}

fn heartbeat(choices: &mut Choices<'_>, seen: &mut Seen, nodes: usize) -> Option<Heartbeat> {
    let incarnation: Incarnation = values::new(choices, seen, nodes)?;
    let stamp: Stamp = values::new(choices, seen, nodes)?;
    let hears: NodeSet = values::new(choices, seen, nodes)?;
    Some(Heartbeat {
        incarnation,
        sequence: values::new(choices, seen, nodes)?,
        stamp,
        serving: choices.byte() & 1 == 1,
        hears,
        ..Heartbeat::default()
    })
}

fn configuration(
    real: Option<&Configuration>,
    choices: &mut Choices<'_>,
    seen: &mut Seen,
    nodes: usize,
) -> Option<Configuration> {
    match real {
        Some(real) => values::changed(&encoded(real), choices, seen, nodes),
        None => values::new(choices, seen, nodes),
    }
}

fn ballot(
    real: Option<&BallotBlock>,
    choices: &mut Choices<'_>,
    seen: &mut Seen,
    nodes: usize,
) -> Option<BallotBlock> {
    match real {
        Some(real) => values::changed(&encoded(real), choices, seen, nodes),
        None => values::new(choices, seen, nodes),
    }
}

fn encoded<T: serde::Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("plain data encodes")
}

/// Somebody writes where a node keeps its state: as a faulty release would, or a copy of the node.
pub fn write_block(bench: &mut Bench, choices: &mut Choices<'_>) {
    let (server, slot) = (
        choices.below(bench.servers()),
        choices.below(1 + bench.kind.devices),
    );
    let Some(mut store) = bench.intruder(server, slot) else {
        return;
    };
    let nodes = bench.kind.nodes;
    let area = match store.execute(ReplicaOp::Survey) {
        Ok(ReplicaAnswer::Survey(survey)) => {
            survey.areas.into_iter().find(|area| area.node == node_id(server))
        }
        _ => None,
    };
    let (real_ballot, real_configuration) =
        area.map_or((None, None), |area| (area.ballot, area.configuration));
    let seen = &mut bench.seen;
    let op = match choices.below(6) {
        0 => heartbeat(choices, seen, nodes).map(|heartbeat| ReplicaOp::WriteHeartbeat { heartbeat }),
        1 => {
            ballot(real_ballot.as_ref(), choices, seen, nodes).map(|ballot| ReplicaOp::WriteBallot { ballot })
        }
        2 => Some(ReplicaOp::WriteImage {
            database: Database::default(),
        }),
        3 => values::new(choices, seen, nodes).map(|record: Record| ReplicaOp::Append {
            record: Arc::new(record),
            then_survey: false,
        }),
        _ => configuration(real_configuration.as_ref(), choices, seen, nodes)
            .map(|configuration| ReplicaOp::WriteConfiguration { configuration }),
    };
    if let Some(op) = op {
        // Whether it fits is the region's to say.
        let _ = store.execute(op);
    }
}
