//! `ccd-disk fence register | preempt | clear`: by an operator, judged by what is read back.

use super::super::output::Output;
use super::super::{Failure, Global, cluster, exit};
use super::situation::Situation;
use super::status::ShownDevice;
use super::{ClearArgs, Common, PreemptArgs, RegisterArgs};
use crate::fencing::{Fence, FenceError};
use ccd_core::ids::{ClusterId, NodeId};
use ccd_core::reservation::{FenceOp, KeyOwner, Registrations, ReservationKey};
use std::io::Read;
use std::path::Path;

/// Keys and nodes that would lose their right to write, or get it, on one device.
struct Plan {
    situation: Situation,
    /// What is told and asked, as one sentence without its end.
    what: String,
}

pub fn register(global: &Global, args: &RegisterArgs, output: &mut Output) -> Result<u8, Failure> {
    run(global, &args.common, &args.devices, output, |situation| {
        let me = own_node(global, &args.common, situation)?;
        let held_by_me = situation.keys_of(me);
        if let Some(key) = held_by_me.first() {
            return Err(Failure::new(
                exit::EXISTS,
                format!(
                    "CCD-2112 {} is registered on {} already, with {key}; nothing was changed (a daemon that runs with this key \
                     would lose it)",
                    situation.owner_text(*key),
                    situation.device
                ),
            ));
        }
        // A node that holds it fenced this one on purpose, if it lives.
        let holder = situation.found.holder.map(|holder| holder.key);
        let key = new_key(cluster_of(situation)?, me)?;
        let text = format!(
            "this server gets the right to write to {}, as {}",
            situation.device,
            situation.owner_text(key)
        );
        Ok(Steps {
            what: text,
            loses: holder.into_iter().collect(),
            key,
            registers: true,
            action: Action::Register,
        })
    })
}

pub fn preempt(global: &Global, args: &PreemptArgs, output: &mut Output) -> Result<u8, Failure> {
    run(global, &args.common, &args.devices, output, |situation| {
        let me = own_node(global, &args.common, situation)?;
        let victims = victims(situation, &args.victim)?;
        if victims
            .iter()
            .any(|victim| situation.owner(*victim) == KeyOwner::Node(me))
        {
            let text = format!(
                "CCD-2113 {:?} is this server's own node; a node does not fence itself",
                args.victim
            );
            return Err(Failure::new(exit::REFUSED, text));
        }
        let named: Vec<String> = victims
            .iter()
            .map(|key| format!("{key} of {}", situation.owner_text(*key)))
            .collect();
        let own = situation.keys_of(me);
        let registers = own.is_empty();
        let key = match own.last() {
            Some(key) => *key,
            None => new_key(cluster_of(situation)?, me)?,
        };
        Ok(Steps {
            what: format!(
                "on {} the right to write is taken from {}",
                situation.device,
                named.join(", ")
            ),
            loses: victims.clone(),
            key,
            registers,
            action: Action::Preempt(victims),
        })
    })
}

pub fn clear(global: &Global, args: &ClearArgs, output: &mut Output) -> Result<u8, Failure> {
    run(global, &args.common, &args.devices, output, |situation| {
        let keys: Vec<_> = situation.keys().collect();
        if keys.is_empty() && situation.found.holder.is_none() {
            return Err(Failure::new(
                exit::NO,
                format!(
                    "CCD-2114 nobody is registered on {}; nothing to clear",
                    situation.device
                ),
            ));
        }
        // A key that somebody registered from here will do; which one that is, the disk does not tell.
        let me = own_node(global, &args.common, situation).ok();
        let node = me.or(NodeId::new(0)).expect("0 is a node number");
        let own = me.map(|me| situation.keys_of(me)).unwrap_or_default();
        let cluster = situation
            .cluster
            .as_ref()
            .map_or(ClusterId([0; 16]), |of| of.cluster);
        let key = match own.last() {
            Some(key) => *key,
            None => new_key(cluster, node)?,
        };
        Ok(Steps {
            what: format!(
                "every registration on {} is removed ({} keys), and then anybody can write to it",
                situation.device,
                keys.len()
            ),
            loses: keys,
            key,
            registers: own.is_empty(),
            action: Action::Clear,
        })
    })
}

enum Action {
    Register,
    Preempt(Vec<ReservationKey>),
    Clear,
}

/// What is to be done on one device.
struct Steps {
    what: String,
    /// Keys that lose the right to write, or whose holder's decision is undone.
    loses: Vec<ReservationKey>,
    /// This server's.
    key: ReservationKey,
    /// It must be registered first.
    registers: bool,
    action: Action,
}

/// Plans on all devices before anything is changed on one, asks once, does it, and shows what is read back.
fn run(
    global: &Global,
    common: &Common,
    devices: &[std::path::PathBuf],
    output: &mut Output,
    plan: impl Fn(&Situation) -> Result<Steps, Failure>,
) -> Result<u8, Failure> {
    let mut plans = Vec::new();
    for device in devices {
        let situation = Situation::of(global, device)?;
        if let Some(why) = &situation.identity.obstacle {
            let error = FenceError::NotSupported {
                device: situation.device.clone(),
                why: why.clone(),
            };
            return Err(error.into());
        }
        let steps = plan(&situation)?;
        let what = match danger(&situation, &steps)? {
            Some(danger) => {
                check_force(common, &situation, &danger)?;
                format!("{} ({danger})", steps.what)
            }
            None => steps.what.clone(),
        };
        plans.push((Plan { situation, what }, steps));
    }
    for (plan, _) in &plans {
        global.note(&plan.what);
    }
    if global.dry_run {
        global.note("nothing was changed (--dry-run)");
    } else {
        global.confirm("Registrations are changed as said above")?;
    }
    let mut code = exit::DONE;
    let mut shown = Vec::new();
    for (Plan { mut situation, .. }, steps) in plans {
        if !global.dry_run {
            let device = situation.device.clone();
            let fence = situation
                .fence
                .as_mut()
                .expect("what has no reservations was refused");
            let after = act(fence, &steps).map_err(unknown)?;
            code = code.max(judge(global, &device, &steps, &after));
            for note in fence.notes() {
                global.note(note);
            }
            situation.found = fence.inspect()?;
        }
        shown.push(ShownDevice::new(&situation));
    }
    output.result(&shown, |to| {
        for device in &shown {
            device.print(to)?;
        }
        Ok(())
    })?;
    Ok(code)
}

/// Why this wants `--force`, if it does.
fn danger(situation: &Situation, steps: &Steps) -> Result<Option<String>, Failure> {
    let foreign: Vec<_> = (steps.loses.iter())
        .filter(|key| situation.is_foreign(**key))
        .collect();
    if let Some(key) = foreign.first() {
        return Ok(Some(format!("{key} belongs to {}", situation.whereabouts(**key))));
    }
    if steps.loses.is_empty() {
        return Ok(None);
    }
    let living = situation.living()?;
    let alive = steps.loses.iter().find(|key| match situation.owner(**key) {
        KeyOwner::Node(node) => living.contains(&node),
        _ => false,
    });
    Ok(alive.map(|key| format!("{} is alive: its heartbeat moves", situation.owner_text(*key))))
}

fn check_force(common: &Common, situation: &Situation, danger: &str) -> Result<(), Failure> {
    let names = match &situation.cluster {
        Some(of) => vec![of.name.clone(), of.cluster.to_string()],
        None => vec!["none".to_owned()],
    };
    let name = names
        .iter()
        .find(|name| !name.is_empty())
        .cloned()
        .unwrap_or_default();
    match &common.force {
        Some(given) if names.contains(given) && !given.is_empty() => Ok(()),
        Some(given) => Err(Failure::new(
            exit::REFUSED,
            format!(
                "CCD-2115 {} belongs to cluster {name}, not {given:?}; nothing was changed",
                situation.device
            ),
        )),
        None => Err(Failure::new(
            exit::REFUSED,
            format!(
                "CCD-2116 {}: {danger}; nothing was changed. Look with `ccd-disk fence status {}`; if it is meant: --force {name}",
                situation.device, situation.device
            ),
        )),
    }
}

/// Does the steps; every one of them is followed by reading back.
fn act(fence: &mut Fence, steps: &Steps) -> Result<Registrations, FenceError> {
    let key = steps.key;
    let mut after = if steps.registers {
        fence.execute(FenceOp::Register { key })?
    } else {
        fence.execute(FenceOp::Look)?
    };
    match &steps.action {
        Action::Register => {}
        Action::Preempt(victims) => {
            for victim in victims {
                after = fence.execute(FenceOp::PreemptAbort { key, victim: *victim })?;
            }
            // With nobody holding it, taking keys away protects nothing.
            if after.holder.is_none() && after.has(key) {
                after = fence.execute(FenceOp::Reserve { key })?;
            }
        }
        Action::Clear => after = fence.clear(key)?,
    }
    Ok(after)
}

/// The exit code, by what is read back; says what did not happen.
fn judge(global: &Global, device: &str, steps: &Steps, after: &Registrations) -> u8 {
    let failed = |code, text: String| {
        global.note(&text);
        code
    };
    let own = steps.key;
    match &steps.action {
        Action::Register if after.has(own) && after.paths_missing == 0 => exit::DONE,
        Action::Register if after.has(own) => failed(
            exit::NO,
            format!(
                "CCD-2117 {device}: {} paths are not registered; check them, and try again",
                after.paths_missing
            ),
        ),
        Action::Clear if after.is_empty() => exit::DONE,
        Action::Preempt(victims) if victims.iter().all(|victim| !after.has(*victim)) => {
            if after.has(own) {
                exit::DONE
            } else {
                failed(
                    exit::FENCED,
                    format!(
                        "CCD-2118 {device}: this server's own key is gone, somebody fenced it meanwhile; see `ccd-disk fence status`"
                    ),
                )
            }
        }
        _ => failed(
            exit::IO,
            format!(
                "CCD-2119 {device}: the target did not do it; see the log above, `dmesg`, and `ccd-disk fence status {device}`"
            ),
        ),
    }
}

/// A change whose outcome cannot be read back.
fn unknown(error: FenceError) -> Failure {
    match error {
        FenceError::Unreadable { .. } => Failure::new(exit::UNKNOWN, error.to_string()),
        other => other.into(),
    }
}

/// The keys that are meant by a node's name or number, or by a key.
fn victims(situation: &Situation, text: &str) -> Result<Vec<ReservationKey>, Failure> {
    let found = if let Some(digits) = text.strip_prefix("0x") {
        let bits = u64::from_str_radix(digits, 16).map_err(|_| {
            Failure::new(
                exit::USAGE,
                format!("CCD-2120 {text:?} is no key such as 0x123abc"),
            )
        })?;
        let key = ReservationKey::from_bits(bits);
        let held = situation.found.holder.map(|holder| holder.key);
        situation
            .keys()
            .chain(held)
            .find(|found| *found == key)
            .into_iter()
            .collect()
    } else {
        situation.keys_of(node_of(situation, text)?)
    };
    if found.is_empty() {
        return Err(Failure::new(
            exit::NO,
            format!(
                "CCD-2121 {text} is not registered on {}; see `ccd-disk fence status {}`",
                situation.device, situation.device
            ),
        ));
    }
    Ok(found)
}

fn node_of(situation: &Situation, text: &str) -> Result<NodeId, Failure> {
    let by_name = situation
        .init
        .as_ref()
        .and_then(|init| init.node_named(text))
        .map(|node| node.id);
    by_name
        .or_else(|| text.parse().ok().and_then(NodeId::new))
        .ok_or_else(|| {
            Failure::new(
                exit::USAGE,
                format!(
                    "CCD-2122 there is no node {text:?}; give its number, or its name if init.ccd is there"
                ),
            )
        })
}

fn own_node(global: &Global, common: &Common, situation: &Situation) -> Result<NodeId, Failure> {
    if let Some(text) = &common.node {
        return node_of(situation, text);
    }
    situation
        .init
        .as_ref()
        .and_then(|init| cluster::own_node(global, init))
        .ok_or_else(|| {
            Failure::new(
                exit::USAGE,
                format!(
                    "CCD-2123 which node this server is, {} does not say; give --node NAME",
                    Path::new(&global.etc).join("node").display()
                ),
            )
        })
}

fn cluster_of(situation: &Situation) -> Result<ClusterId, Failure> {
    situation.cluster.as_ref().map(|of| of.cluster).ok_or_else(|| {
        Failure::new(
            exit::BAD_DATA,
            format!(
                "CCD-2124 {} is no region and there is no init.ccd: whose key should be registered? Make one with `ccdadm setup`, \
                 or name its folder with --etc",
                situation.device
            ),
        )
    })
}

/// A key of this run alone: its incarnation is random.
pub fn new_key(cluster: ClusterId, node: NodeId) -> Result<ReservationKey, Failure> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Failure::new(exit::IO, format!("CCD-2125 cannot read /dev/urandom: {error}")))?;
    // Never 0 in the bits that count.
    Ok(ReservationKey::new(cluster, node, u64::from_le_bytes(bytes) | 1))
}
