//! What the daemon does by itself beside the protocol: the scrub, automatic checkpoints, the leave at its end, the authkey file read again, and
//! the report on itself. What it asks of its own node has tokens of its own, and no client waits for it.

use super::Daemon;
use crate::clients::{Scrape, today};
use crate::clock;
use crate::metrics;
use crate::peers::PacketsFound;
use crate::scrub;
use ccd_client::files::Authkeys;
use ccd_client::wire::{NodeName, StatusReport, WorkKind, WorkReport};
use ccd_core::client::{Answer, ClientToken, Reply, Request, RequestBody};
use ccd_core::ids::{DeviceSet, Replica};
use ccd_core::protocol::{Decision, DecisionKind, Event, Status, Ticket};
use ccd_core::time::Time;
use ccd_mirror::{LaneReport, LongWork, Remedy};
use std::time::Duration;

/// How long a graceful leave may take before the process ends anyway.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// The daemon's own requests: no client ever gets these tokens, for they count from 1.
pub(super) const OWN_LEAVE: ClientToken = ClientToken(0);
pub(super) const OWN_SCRUB: ClientToken = ClientToken(u64::MAX);
pub(super) const OWN_CHECKPOINT: ClientToken = ClientToken(u64::MAX - 1);
/// The daemon's own repairs; the node counts its tickets from the other end.
pub(super) const OWN_REPAIR: Ticket = Ticket(u64::MAX);
/// The scrub and a checkpoint wait no longer for their snapshot.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(5);

impl Daemon {
    pub(super) fn ask_for_scrub(&mut self) {
        self.scrub.asked();
        let request = Request {
            timeout: SNAPSHOT_PATIENCE,
            body: RequestBody::Snapshot { stale: false },
        };
        self.handle(Event::Client {
            client: OWN_SCRUB,
            request,
            date: today(),
        });
    }

    /// The snapshot that a scrub compares with is there, or this node does not serve.
    pub(super) fn begin_scrub(&mut self, reply: Reply) {
        let now = clock::now();
        match reply {
            Ok(Answer::Snapshot(database)) => {
                let in_sync = match self.node.status(now).configuration {
                    Some(configuration) if configuration.owner().is_some() => configuration.devices,
                    _ => DeviceSet::EMPTY,
                };
                self.scrub.begin(now, database, in_sync);
            }
            _ => self.scrub.put_off(now),
        }
    }

    pub(super) fn ask_for_checkpoint(&mut self, now: Time) {
        self.checkpoints.asked(now);
        let request = Request {
            timeout: SNAPSHOT_PATIENCE,
            body: RequestBody::Snapshot { stale: false },
        };
        self.handle(Event::Client {
            client: OWN_CHECKPOINT,
            request,
            date: today(),
        });
    }

    /// The snapshot that is to be saved is there, or this node does not serve.
    pub(super) fn begin_checkpoint(&mut self, reply: Reply) {
        match reply {
            Ok(Answer::Snapshot(database)) => self.checkpoints.begin(database, today()),
            _ => self.checkpoints.put_off(clock::now()),
        }
    }

    pub(super) fn end_scrub(&mut self, outcome: &scrub::Outcome) {
        let now = clock::now();
        for (role, remedy) in self.scrub.end(now, outcome) {
            let text = match remedy {
                Remedy::Nothing => continue,
                Remedy::Report(text) => text,
                Remedy::Rewrite(text) => {
                    let replica = Replica::Device(role);
                    self.mirror
                        .submit_repair(now, OWN_REPAIR, replica, outcome.database.clone());
                    format!("{text}; it is written anew from memory")
                }
            };
            self.record(Decision {
                kind: DecisionKind::Damage,
                configuration: None,
                text,
            });
        }
    }

    pub(super) fn status(&self) -> Status {
        self.node.status(clock::now())
    }

    /// What is wrong with a network that does not pass packets of full size; `None` if nothing is.
    pub(super) fn packets_text(&self, found: &PacketsFound) -> Option<String> {
        let name = self.init.nodes().iter().find(|node| node.id == found.node);
        let name = name.map_or_else(|| format!("node {}", found.node), |node| node.name.clone());
        found.packets.text(&format!("{name} ({})", found.address.ip()))
    }

    /// The size of packets that a network passes was found out.
    pub(super) fn on_packets_found(&mut self, found: &PacketsFound) {
        let Some(text) = self.packets_text(found) else {
            let (node, address) = (found.node, found.address.ip());
            return tracing::info!(%node, %address, "the network passes packets of full size again");
        };
        self.record(Decision {
            kind: DecisionKind::Alarm,
            configuration: None,
            text,
        });
    }

    pub(super) fn report(&self) -> StatusReport {
        let init = &self.init;
        StatusReport {
            cluster_name: init.name().to_owned(),
            cluster_id: init.id(),
            status: self.status(),
            node_names: init
                .nodes()
                .iter()
                .map(|node| NodeName {
                    id: node.id,
                    name: node.name.clone(),
                })
                .collect(),
            device_paths: init
                .devices()
                .iter()
                .map(|device| (device.role, device.path.clone()))
                .collect(),
            fencing: init.options().fencing,
            lease: init.options().lease,
            daemon_version: env!("CARGO_PKG_VERSION").to_owned(),
            daemon_pid: std::process::id(),
            uptime: self.started.elapsed(),
            links: self.peers.report(),
            work: self.mirror.report().filter_map(work_of).collect(),
        }
    }

    /// The page of metrics, for so many connections and watchers.
    pub(super) fn metrics(&self, scrape: &Scrape) -> String {
        let lanes: Vec<LaneReport> = self.mirror.report().collect();
        metrics::page(&metrics::Facts {
            report: &self.report(),
            counters: &self.counters,
            lanes: &lanes,
            clients: scrape.clients,
            watchers: scrape.watchers,
            faults: &scrape.faults,
            process: metrics::Process::look(),
        })
    }

    /// SIGHUP: the authkey file is read again. What is wrong with it changes nothing.
    pub(super) fn reload(&mut self) {
        match Authkeys::read(&self.places) {
            Ok(keys) => {
                tracing::info!(
                    "authkey read again: connections begin with {}; accepted: {}",
                    keys.first().id(),
                    keys.ids()
                );
                self.peers.set_keys(keys);
                self.surroundings.note_change();
                self.listening.revoke();
            }
            Err(error) => {
                let message = error.message();
                tracing::error!(
                    "{message}: not reloaded, the keys in use stay: {error}; try: {}",
                    message.action
                );
            }
        }
    }

    /// SIGTERM: the others take over at once instead of waiting for a lease to run out.
    pub(super) fn begin_to_leave(&mut self) {
        if self.leave_by.is_some() {
            // Asked twice: no more patience.
            self.left = true;
            return;
        }
        tracing::info!("leaving");
        self.service.stopping();
        let patience = LEAVE_PATIENCE.min(self.init.options().request_timeout);
        self.leave_by = Some(clock::now() + patience);
        let request = Request {
            timeout: patience,
            body: RequestBody::Leave,
        };
        let (client, date) = (OWN_LEAVE, today());
        self.handle(Event::Client {
            client,
            request,
            date,
        });
    }
}

fn work_of(lane: LaneReport) -> Option<WorkReport> {
    let progress = lane.progress?;
    Some(WorkReport {
        replica: lane.replica,
        kind: match progress.work {
            LongWork::Image => WorkKind::Copy,
            LongWork::Checkpoint => WorkKind::Checkpoint,
        },
        done_bytes: progress.done_bytes,
        total_bytes: progress.total_bytes,
        elapsed: progress.elapsed,
    })
}
