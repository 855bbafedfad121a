//! What must be right about a shared device before mkfs makes a region there: that it is not its twin's disk, and that the
//! cluster's fencing can work on it.

use super::fence::{self, Situation};
use super::{Failure, Global, cluster, exit};
use crate::fencing::{DeviceKind, Enforcement, Fence, identify};
use ccd_core::ids::{ClusterId, DeviceRole, NodeId, Replica};
use ccd_core::init::Fencing;
use std::path::Path;

/// Refuses what could never work, and tells of what people should know. Changes nothing.
pub fn check(global: &Global, path: &Path, cluster: ClusterId, replica: Replica) -> Result<(), Failure> {
    let Replica::Device(role) = replica else {
        return Ok(());
    };
    let identity = identify(path)?;
    // Of another cluster, an init database says nothing about this device.
    let Ok(init) = cluster::of(global).and_then(|init| match init.id() == cluster {
        true => Ok(init),
        false => Err(Failure::new(exit::DONE, "")),
    }) else {
        return Ok(());
    };
    let other = match role {
        DeviceRole::Primary => DeviceRole::Secondary,
        DeviceRole::Secondary => DeviceRole::Primary,
    };
    if let Some(twin) = cluster::device_path(&init, other)
        && let Ok(twin_identity) = identify(&twin)
        && identity.is_same_disk(&twin_identity)
    {
        let wwid = identity.wwid.as_deref().unwrap_or("the same device");
        return Err(Failure::new(
            exit::REFUSED,
            format!(
                "CCD-2087 {} and {}, the {other} of init.ccd, are one disk ({wwid}): losing it would lose both; nothing was changed. \
                 Compare `ls -l /dev/disk/by-id`, and correct the DEVICE rows",
                path.display(),
                twin.display()
            ),
        ));
    }
    if init.options().fencing != Fencing::Scsi {
        return Ok(());
    }
    match &identity.obstacle {
        None => {}
        Some(why) if identity.kind == DeviceKind::Partition => {
            return Err(Failure::new(
                exit::REFUSED,
                format!(
                    "CCD-2088 {}: {why}: fencing would take the rest of the disk from everybody, too; nothing was changed. Use a whole \
                     disk, or a cluster with `--fencing lease`",
                    path.display()
                ),
            ));
        }
        Some(why) => {
            global.note(&format!(
                "{}: {why}; this cluster's fencing is scsi, and ccdd will not start on it (see `ccdadm setup --fencing lease`)",
                path.display()
            ));
            return Ok(());
        }
    }
    tell_of_registrations(global, path);
    if global.dry_run {
        return Ok(());
    }
    prove(global, path, cluster)
}

/// A target that takes writes from anybody is refused; where one server cannot tell, that is said.
fn prove(global: &Global, path: &Path, cluster: ClusterId) -> Result<(), Failure> {
    let node = NodeId::new(31).expect("31 is a node number");
    let key = fence::new_key(cluster, node)?;
    let shown = Fence::open(path).and_then(|mut fence| fence.prove_enforcement(key));
    let device = path.display();
    match shown {
        Ok(Enforcement::Enforced) => {
            global.note(&format!("{device} refuses the writes of who is not registered: tried with two paths"));
        }
        Ok(Enforcement::NotShown(why)) => global.note(&format!(
            "whether {device} refuses the writes of who is not registered was not tried: {why}; two servers can show it, with \
             `ccdadm drill`"
        )),
        Ok(Enforcement::NotEnforced(what)) => {
            return Err(Failure::new(
                exit::REFUSED,
                format!(
                    "CCD-2089 {device} cannot be fenced by reservation: {what}; nothing was made. Ask its maker, or use a cluster \
                     with `--fencing lease`"
                ),
            ));
        }
        Err(failed) => global.note(&format!("whether {device} can be fenced was not tried: {failed}")),
    }
    Ok(())
}

/// A reservation of a stranger would make mkfs fail with "fenced" in the middle; a stranger's key means that somebody else
/// uses the disk.
fn tell_of_registrations(global: &Global, path: &Path) {
    let situation = match Situation::of(global, path) {
        Ok(situation) => situation,
        Err(failure) => {
            return global.note(&format!(
                "whether somebody else is registered cannot be seen: {}",
                failure.text
            ));
        }
    };
    for key in situation.foreign_keys() {
        let holds = situation.found.holder.is_some_and(|holder| holder.key == key);
        let what = if holds { "is reserved with" } else { "has" };
        global.note(&format!(
            "{} {what} the key {key} of {}: somebody else may use this disk; see `ccd-disk fence status {}`",
            path.display(),
            situation.whereabouts(key),
            path.display()
        ));
    }
}
