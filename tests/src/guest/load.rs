//! Updates without end from inside the guests, and what was promised about each.
//!
//! Each writer tells of an ack at once, on the line to the test: what a guest promised is known although it dies. What it did not tell,
//! it promised nobody.

use super::agent::Job;
use super::node::{GuestNode, PATIENCE, until};
use crate::process::writer::{FORMAT, Fate, Ledger, QUERY};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// No writer writes more rows.
const ROWS_MAX: u64 = 1_000_000;

/// One writer on each guest of a cluster's nodes.
#[derive(Debug)]
pub struct Load {
    jobs: Vec<(&'static str, Job)>,
    pids: Vec<(std::sync::Arc<super::Machine>, i32)>,
}

impl Load {
    /// Nodes of one guest share a writer, which tries them in this order.
    pub fn start(nodes: &[GuestNode]) -> Self {
        nodes[0].adm(&FORMAT).done();
        let mut load = Self {
            jobs: Vec::new(),
            pids: Vec::new(),
        };
        let mut guests: Vec<&'static str> = Vec::new();
        for node in nodes {
            if !guests.contains(&node.machine.name) {
                guests.push(node.machine.name);
                let there = nodes
                    .iter()
                    .filter(|other| other.machine.name == node.machine.name);
                load.add(&there.collect::<Vec<_>>());
            }
        }
        load
    }

    /// One more writer, which tries these nodes of one guest.
    pub fn add(&mut self, nodes: &[&GuestNode]) {
        static WRITERS: AtomicU64 = AtomicU64::new(0);
        let first = (WRITERS.fetch_add(1, Ordering::Relaxed) * ROWS_MAX).to_string();
        let folders: Vec<String> = nodes.iter().map(|node| node.folder()).collect();
        let mut words = vec!["ccd-guest", "load", "--first", &first];
        words.extend(folders.iter().map(String::as_str));
        let machine = &nodes[0].machine;
        let job = machine.start_job(&words, Some(&format!("{}.load", machine.name)));
        self.pids.push((machine.clone(), job.pid()));
        self.jobs.push((nodes[0].name, job));
    }

    fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::default();
        for (_, job) in &self.jobs {
            for (moment, line) in job.lines(0) {
                let Some((word, number)) = line.split_once(' ') else {
                    continue;
                };
                let Ok(number) = number.trim().parse() else {
                    continue;
                };
                match word {
                    "acked" => {
                        ledger.acked.insert(number, moment);
                    }
                    "refused" => ledger.note(number, Fate::Refused),
                    "unknown" => ledger.note(number, Fate::Unknown),
                    _ => {}
                }
            }
        }
        ledger
    }

    pub fn acked(&self) -> usize {
        self.ledger().acked.len()
    }

    /// Waits until so many more updates are acked.
    #[track_caller]
    pub fn wait_for_more(&self, more: usize) {
        let before = self.acked();
        until(&format!("{more} more acked updates"), || {
            let now = self.acked();
            if now >= before + more {
                Ok(())
            } else {
                Err(format!("{now} acked, {before} before"))
            }
        });
    }

    /// Waits for the first ack after `moment`, and says how long it took.
    #[track_caller]
    pub fn first_ack_after(&self, moment: Instant) -> Duration {
        let (took, _) = until("an acked update", || {
            let ledger = self.ledger();
            let first = ledger.acked.values().filter(|acked| **acked > moment).min();
            first
                .map(|acked| *acked - moment)
                .ok_or_else(|| format!("{} acked before", ledger.acked.len()))
        });
        took
    }

    /// Ends the writers that still run.
    pub fn end(self) -> Written {
        for ((_, job), (machine, pid)) in self.jobs.iter().zip(&self.pids) {
            if job.ended().is_none() {
                // It may end in this moment.
                let _ = machine.run(&["kill", "-TERM", &pid.to_string()]);
                job.wait_for_end(PATIENCE);
            }
        }
        Written(self.ledger())
    }
}

/// What all writers were promised.
#[derive(Debug)]
pub struct Written(Ledger);

impl Written {
    /// # Panics
    /// If an acked update is missing at this node, or a refused one is there.
    #[track_caller]
    pub fn check(&self, node: &GuestNode) {
        self.0.check_rows(node.name, &node.adm(&QUERY).done().out);
    }

    /// # Panics
    /// As [`Written::check`], for each of them.
    #[track_caller]
    pub fn check_all(&self, nodes: &[GuestNode]) {
        for node in nodes {
            self.check(node);
        }
    }
}
