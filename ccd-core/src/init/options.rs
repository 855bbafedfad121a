//! The options of a cluster: one table of names, units, ranges and defaults, and their checked form.
//!
//! `OPTIONS` feeds the parser, the help of `ccdadm setup` and the message for an unknown name.

use super::InitError;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// The TCP port on which nodes listen for each other unless the `port` option or an address says otherwise.
/// Below the range from which Linux takes ports of outgoing connections (32,768), and assigned to nobody.
pub const NODE_PORT: u16 = 5640;

/// A lease outlives this many heartbeats, so that losing one or two costs nobody its lease.
pub const LEASE_HEARTBEATS_MIN: u64 = 4;

/// How nodes keep each other from writing to the devices (DESIGN §10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fencing {
    /// Persistent reservations.
    Scsi,
    /// Ballots and waiting; nothing stops a hung or foreign writer.
    Lease,
}

impl Fencing {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scsi => "scsi",
            Self::Lease => "lease",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Self::Scsi, Self::Lease]
            .into_iter()
            .find(|fencing| fencing.name() == name)
    }
}

impl fmt::Display for Fencing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How something travels from one node to all others (Fig. 3, Fig. 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// Each node passes it on to the next higher-numbered one.
    Forward,
    /// One sends it to all.
    Broadcast,
}

impl Propagation {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Broadcast => "broadcast",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Self::Forward, Self::Broadcast]
            .into_iter()
            .find(|propagation| propagation.name() == name)
    }
}

/// One option that is a word.
#[derive(Clone, Copy, Debug)]
pub struct WordSpec {
    pub name: &'static str,
    pub words: &'static str,
    pub about: &'static str,
}

/// Every option that is no number.
pub const WORD_OPTIONS: [WordSpec; 3] = [
    WordSpec {
        name: "fencing",
        words: "scsi, lease",
        about: "how nodes keep each other from writing to the devices",
    },
    WordSpec {
        name: "propagation",
        words: "forward, broadcast",
        about: "how copies travel in a reconfiguration: each node to the next higher-numbered one (the default), or one to all",
    },
    WordSpec {
        name: "update_propagation",
        words: "broadcast, forward",
        about: "how updates travel: the master to all (the default: one round trip), or each node to the next higher-numbered one",
    },
];

/// One numeric option.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    pub name: &'static str,
    pub min: u64,
    pub max: u64,
    pub default: u64,
    pub about: &'static str,
}

/// The longest lease that any init database allows, in milliseconds.
const LEASE_MS_MAX: u64 = 120_000;

/// The same span. Other nodes may go by other init databases than this one.
pub const LEASE_MAX: Duration = Duration::from_millis(LEASE_MS_MAX);

/// Every numeric option.
pub const OPTIONS: [OptionSpec; 12] = [
    OptionSpec {
        name: "heartbeat_ms",
        min: 10,
        max: 10_000,
        default: 100,
        about: "interval between heartbeats, in milliseconds",
    },
    OptionSpec {
        name: "lease_ms",
        min: 40,
        max: LEASE_MS_MAX,
        default: 1_000,
        about: "how long a node waits for a silent peer, in milliseconds; at least 4 heartbeats",
    },
    OptionSpec {
        name: "request_timeout_ms",
        min: 100,
        max: 600_000,
        default: 5_000,
        about: "every request is answered within this time unless it names its own, in milliseconds",
    },
    OptionSpec {
        name: "disk_deadline_ms",
        min: 20,
        max: 60_000,
        default: 2_000,
        about: "a device that has not answered for so long has failed, in milliseconds; \
                at most half of request_timeout_ms (which is the default if it is less)",
    },
    OptionSpec {
        name: "sync_timeout_ms",
        min: 10,
        max: 600_000,
        default: 10_000,
        about: "a synchronization command that has not ended after so long is killed, in milliseconds; \
                before an update, it also has no longer than the update's request",
    },
    OptionSpec {
        name: "port",
        min: 1,
        max: 65_535,
        default: NODE_PORT as u64,
        about: "TCP port of the nodes, where an address names none",
    },
    OptionSpec {
        name: "port_range",
        min: 1,
        max: 64,
        default: 4,
        about: "ports from the one of an address on, in number: a node takes the first that is free",
    },
    OptionSpec {
        name: "image_mib",
        min: 1,
        max: 1_024,
        default: 32,
        about: "largest database image a local copy can hold, in MiB",
    },
    OptionSpec {
        name: "journal_mib",
        min: 1,
        max: 1_024,
        default: 8,
        about: "journal of a local copy, in MiB",
    },
    OptionSpec {
        name: "history_mib",
        min: 1,
        max: 16_384,
        default: 64,
        about: "what the history of updates may take on each node's disk, in MiB; the oldest goes first",
    },
    OptionSpec {
        name: "checkpoint_interval_s",
        min: 0,
        max: 604_800,
        default: 3_600,
        about: "so often each node that serves saves its copy to a file, if it has changed, in seconds; 0: never",
    },
    OptionSpec {
        name: "checkpoint_keep",
        min: 1,
        max: 1_000,
        default: 8,
        about: "so many automatic checkpoints are kept on each node; the oldest goes first",
    },
];

/// The options, all of them set and in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub heartbeat: Duration,
    pub lease: Duration,
    pub request_timeout: Duration,
    /// How long one operation on a replica may take.
    pub disk_deadline: Duration,
    /// How long synchronization commands may take.
    pub sync_timeout: Duration,
    pub fencing: Fencing,
    pub propagation: Propagation,
    pub update_propagation: Propagation,
    pub port: u16,
    /// Number of ports, from that of an address on.
    pub port_range: u16,
    pub image_mib: u32,
    pub journal_mib: u32,
    pub history_mib: u32,
    /// Between two automatic checkpoints; `None`: there are none.
    pub checkpoint_interval: Option<Duration>,
    /// Number of automatic checkpoints that are kept.
    pub checkpoint_keep: u32,
}

/// `OPTION` rows while they are read: line, name, value.
pub(super) struct Given<'a>(pub Vec<(u32, &'a str, &'a str)>);

impl Given<'_> {
    /// Checks names, values, ranges and what holds between options.
    pub(super) fn check(&self, has_devices: bool) -> Result<Options, InitError> {
        let mut seen: Vec<&str> = Vec::new();
        for &(line, name, _) in &self.0 {
            if !names().any(|known| known == name) {
                return Err(InitError::new(
                    Some(line),
                    format!("option {name:?}"),
                    format!(
                        "there is no such option; there are {}",
                        names().collect::<Vec<_>>().join(", ")
                    ),
                ));
            }
            if seen.contains(&name) {
                return Err(InitError::new(
                    Some(line),
                    format!("option {name}"),
                    "it is set twice",
                ));
            }
            seen.push(name);
        }
        let heartbeat_ms = self.number("heartbeat_ms")?;
        let lease_ms = self.number("lease_ms")?;
        let request_timeout_ms = self.number("request_timeout_ms")?;
        let disk_deadline_ms = match self.line("disk_deadline_ms") {
            Some(_) => self.number("disk_deadline_ms")?,
            None => self.number("disk_deadline_ms")?.min(request_timeout_ms / 2),
        };
        let lease_ms_min = LEASE_HEARTBEATS_MIN.saturating_mul(heartbeat_ms);
        if lease_ms < lease_ms_min {
            return Err(InitError::new(
                self.line("lease_ms").or(self.line("heartbeat_ms")),
                "option lease_ms",
                format!(
                    "{lease_ms} ms is less than {LEASE_HEARTBEATS_MIN} heartbeats of {heartbeat_ms} ms; \
                     set it to {lease_ms_min} or more"
                ),
            ));
        }
        if disk_deadline_ms > request_timeout_ms / 2 {
            return Err(InitError::new(
                self.line("disk_deadline_ms"),
                "option disk_deadline_ms",
                format!(
                    "{disk_deadline_ms} ms is more than half of request_timeout_ms ({request_timeout_ms}); \
                     a request could not be answered in time when a device fails"
                ),
            ));
        }
        Ok(Options {
            heartbeat: Duration::from_millis(heartbeat_ms),
            lease: Duration::from_millis(lease_ms),
            request_timeout: Duration::from_millis(request_timeout_ms),
            disk_deadline: Duration::from_millis(disk_deadline_ms),
            sync_timeout: Duration::from_millis(self.number("sync_timeout_ms")?),
            fencing: self.fencing(has_devices)?,
            propagation: self.propagation("propagation", Propagation::Forward)?,
            update_propagation: self.propagation("update_propagation", Propagation::Broadcast)?,
            port: self.number("port")? as u16,
            port_range: self.number("port_range")? as u16,
            image_mib: self.number("image_mib")? as u32,
            journal_mib: self.number("journal_mib")? as u32,
            history_mib: self.number("history_mib")? as u32,
            checkpoint_interval: match self.number("checkpoint_interval_s")? {
                0 => None,
                seconds => Some(Duration::from_secs(seconds)),
            },
            checkpoint_keep: self.number("checkpoint_keep")? as u32,
        })
    }

    fn fencing(&self, has_devices: bool) -> Result<Fencing, InitError> {
        let Some(&(line, _, value)) = self.0.iter().find(|(_, name, _)| *name == "fencing") else {
            return Ok(if has_devices {
                Fencing::Scsi
            } else {
                Fencing::Lease
            });
        };
        let fail = |why: &str| Err(InitError::new(Some(line), "option fencing", why));
        match Fencing::named(value) {
            None => fail(&format!("{value:?} is neither scsi nor lease")),
            Some(Fencing::Scsi) if !has_devices => fail("scsi needs devices, and there is no DEVICE row"),
            Some(fencing) => Ok(fencing),
        }
    }

    fn propagation(&self, name: &str, default: Propagation) -> Result<Propagation, InitError> {
        let Some(&(line, _, value)) = self.0.iter().find(|given| given.1 == name) else {
            return Ok(default);
        };
        Propagation::named(value).ok_or_else(|| {
            InitError::new(
                Some(line),
                format!("option {name}"),
                format!("{value:?} is neither forward nor broadcast"),
            )
        })
    }

    fn line(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|given| given.1 == name).map(|given| given.0)
    }

    /// The value given for a numeric option, or its default.
    fn number(&self, name: &str) -> Result<u64, InitError> {
        let spec = OPTIONS
            .iter()
            .find(|option| option.name == name)
            .ok_or_else(|| InitError::new(None, format!("option {name}"), "it is no numeric option"))?;
        let Some(&(line, _, value)) = self.0.iter().find(|given| given.1 == name) else {
            return Ok(spec.default);
        };
        match value.parse::<u64>() {
            Ok(number) if (spec.min..=spec.max).contains(&number) && !value.starts_with('+') => Ok(number),
            _ => Err(InitError::new(
                Some(line),
                format!("option {name}"),
                format!("{value:?} is not a number from {} to {}", spec.min, spec.max),
            )),
        }
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    let words = WORD_OPTIONS.iter().map(|option| option.name);
    words.chain(OPTIONS.iter().map(|option| option.name))
}
