//! What takes long on this node's replicas, and how far it is: whole copies, and checkpoints.

use crate::wire::{StatusReport, WorkKind, WorkReport};
use ccd_core::ids::{DeviceRole, Replica};
use serde_json::{Value, json};

const MIB: f64 = (1 << 20) as f64;

pub fn document(work: &WorkReport) -> Value {
    json!({
        "replica": replica_name(work.replica),
        "work": match work.kind {
            WorkKind::Copy => "copy",
            WorkKind::Checkpoint => "checkpoint",
        },
        "done_bytes": work.done_bytes,
        "total_bytes": work.total_bytes,
        "elapsed_ms": work.elapsed.as_millis() as u64,
        "rate_bytes_s": rate(work).map(|rate| rate as u64),
    })
}

/// `copying to the secondary: 40 %, 12.8 of 32.0 MiB, 64.0 MiB/s`, a line for each.
pub fn lines(report: &StatusReport) -> Vec<String> {
    let lines = report.work.iter().map(|work| {
        let replica = match work.replica {
            Replica::Local => "local copy",
            Replica::Device(role) => role.name(),
        };
        let what = match work.kind {
            WorkKind::Copy => format!("copying to the {replica}"),
            WorkKind::Checkpoint => format!("checkpoint of the {replica}"),
        };
        let amount = match percent(work) {
            Some(percent) => format!(
                "{percent} %, {:.1} of {:.1} MiB",
                work.done_bytes as f64 / MIB,
                work.total_bytes as f64 / MIB
            ),
            None => format!("{:.1} MiB", work.done_bytes as f64 / MIB),
        };
        let rate = rate(work).map_or_else(String::new, |rate| format!(", {:.1} MiB/s", rate / MIB));
        format!("{what}: {amount}{rate}")
    });
    lines.collect()
}

/// `copying, 40 %`, of a device that is being written anew.
pub fn on_device(report: &StatusReport, role: DeviceRole) -> Option<String> {
    let work = (report.work.iter())
        .find(|work| work.replica == Replica::Device(role) && work.kind == WorkKind::Copy)?;
    Some(match percent(work) {
        Some(percent) => format!("copying, {percent} %"),
        None => "copying".to_owned(),
    })
}

fn percent(work: &WorkReport) -> Option<u64> {
    let done = work.done_bytes.min(work.total_bytes);
    (done.saturating_mul(100)).checked_div(work.total_bytes)
}

/// Bytes a second; not told of what has only begun.
fn rate(work: &WorkReport) -> Option<f64> {
    let seconds = work.elapsed.as_secs_f64();
    (seconds >= 0.01).then(|| work.done_bytes as f64 / seconds)
}

fn replica_name(replica: Replica) -> &'static str {
    match replica {
        Replica::Local => "local",
        Replica::Device(role) => role.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::whole;
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_copy_says_how_much_of_how_much_and_how_fast() {
        let mut report = whole(2, true);
        let copy = WorkReport {
            replica: Replica::Device(DeviceRole::Secondary),
            kind: WorkKind::Copy,
            done_bytes: 16 << 20,
            total_bytes: 32 << 20,
            elapsed: Duration::from_secs(2),
        };
        let begun = WorkReport {
            replica: Replica::Local,
            kind: WorkKind::Checkpoint,
            done_bytes: 0,
            total_bytes: 0,
            elapsed: Duration::ZERO,
        };
        report.work = vec![copy, begun];
        assert_eq!(
            lines(&report),
            [
                "copying to the secondary: 50 %, 16.0 of 32.0 MiB, 8.0 MiB/s",
                "checkpoint of the local copy: 0.0 MiB",
            ]
        );
        assert_eq!(
            on_device(&report, DeviceRole::Secondary).as_deref(),
            Some("copying, 50 %")
        );
        assert_eq!(on_device(&report, DeviceRole::Primary), None);
        let told = document(&report.work[0]);
        assert_eq!(
            (&told["replica"], &told["work"]),
            (&json!("secondary"), &json!("copy"))
        );
        assert_eq!(
            (&told["done_bytes"], &told["rate_bytes_s"]),
            (&json!(16 << 20), &json!(8 << 20))
        );
        assert_eq!(document(&report.work[1])["rate_bytes_s"], Value::Null);
    }
}
