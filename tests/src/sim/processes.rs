//! The servers' processes: they start, stop and go on, sleep with their machine, and die.

use super::asks::AskEnd;
use super::commands::SYNC_TIMEOUT;
use super::drive::Drive;
use super::server::{Process, Stopped};
use super::world::{CLUSTER, HEARTBEAT, World};
use ccd_core::database::RECORD_BYTES_MAX;
use ccd_core::ids::Incarnation;
use ccd_core::init::Fencing;
use ccd_core::protocol::{Event, Node, Settings};
use core::time::Duration;

/// Small images take many pieces here too.
const IMAGE_CHUNK_BYTES: usize = 512;

impl World {
    /// Starts the process of this server, if it is down.
    pub fn start(&mut self, index: usize) {
        if self.servers[index].process.is_some() || self.servers[index].is_retired {
            return;
        }
        self.settle_ghosts(index);
        self.servers[index].inits.forget();
        let content_bytes_max = self.media.room.content_bytes;
        let server = &mut self.servers[index];
        server.run += 1;
        server.timer = None;
        server.knows = server.told.stamp;
        let settings = Settings {
            me: server.id,
            cluster: CLUSTER,
            nodes: server.inits.file.nodes,
            init: server.inits.file.clone(),
            staged: server.inits.staged.clone(),
            devices: self.shape.device_set(),
            // Short in the log, and not so short that two runs of a server have one in a hundred thousand histories.
            incarnation: Incarnation(self.chance.draw() >> 24),
            host: server.host(),
            heartbeat: HEARTBEAT,
            lease: server.inits.lease(),
            fencing: self.fencing,
            disk_deadline: self.faults.disk_deadline,
            propagation: self.propagation,
            update_propagation: self.update_propagation,
            image_chunk_bytes: IMAGE_CHUNK_BYTES,
            update_bytes_whole_max: if self.updates_in_pieces {
                0
            } else {
                RECORD_BYTES_MAX
            },
            content_bytes_max,
            sync_timeout: SYNC_TIMEOUT,
            // The rows of these worlds are few: one or two are a long read.
            read_budget: if self.work_takes_long { 100 } else { u64::MAX },
            // More than adding one row.
            update_budget: if self.work_takes_long { 8 } else { u64::MAX },
        };
        let drives = (0..3)
            .map(|slot| Some(Drive::new(self.media.store(index, slot)?)))
            .collect();
        let mut node = Node::new(settings, server.clock.show(self.now));
        node.tell_from(server.told);
        server.process = Some(Process {
            node,
            drives,
            asks: Default::default(),
        });
        self.log.line(self.now, format_args!("n{index} starts"));
        self.tell(index, Event::Timer);
    }

    /// Stops a process as SIGSTOP does.
    pub fn pause(&mut self, index: usize) {
        if self.servers[index].is_awake() {
            self.log.line(self.now, format_args!("n{index} is stopped"));
            self.servers[index].stopped = Some(Stopped::default());
        }
    }

    /// Lets a stopped process go on: first with what it was doing, then with what waits, in any order.
    pub fn resume(&mut self, index: usize) {
        let Some(mut stopped) = self.servers[index].stopped.take() else {
            return;
        };
        self.log.line(self.now, format_args!("n{index} goes on"));
        self.servers[index].resumed_at = self.now;
        self.perform(index, std::mem::take(&mut stopped.actions));
        for step in stopped.steps {
            self.step_after(index, Duration::ZERO, step);
        }
        self.chance.shuffle(&mut stopped.inbox);
        for event in stopped.inbox {
            self.tell(index, event);
        }
        self.schedule_timer(index);
    }

    /// The whole machine sleeps: suspended, or a guest whose host does not run it.
    pub fn fall_asleep(&mut self, index: usize) {
        self.pause(index);
        self.servers[index].slept_at = self.now;
    }

    /// It wakes up. What was sent to it meanwhile is lost; its clock went on, or it stood still.
    pub fn wake_up(&mut self, index: usize, clock_went_on: bool) {
        let server = &mut self.servers[index];
        if !clock_went_on {
            server.clock.stood_still(self.now.since(server.slept_at));
        }
        if let Some(stopped) = &mut server.stopped {
            stopped
                .inbox
                .retain(|event| !matches!(event, Event::Message { .. }));
        }
        self.resume(index);
    }

    /// The process dies; with `power`, so does the memory of its machine and of its local disk.
    pub fn crash(&mut self, index: usize, power: bool) {
        let server = &mut self.servers[index];
        server.stopped = None;
        let Some(process) = server.process.take() else {
            return;
        };
        server.run += 1;
        self.log.line(
            self.now,
            format_args!("n{index} dies{}", if power { " (power)" } else { "" }),
        );
        self.leave_ghosts(index, process.drives, power);
        if power {
            let torn = self.faults.torn_writes;
            self.media.power_cut_local(index, torn, &mut self.chance);
            // Some initiators come back as the same nexus, some as another.
            if self.fencing == Fencing::Scsi && self.chance.chance(500) {
                self.media.new_sessions(index);
            }
        }
        for token in process.asks {
            self.end_ask(token, AskEnd::Lost);
        }
    }
}
