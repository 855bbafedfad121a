//! What the init database in the `--etc` folder says of the cluster, for the verbs that can use it.

use super::{Failure, Global, exit};
use ccd_core::ids::{ClusterId, DeviceRole, NodeId};
use ccd_core::init::ClusterInit;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Reads the init database.
pub fn read_init(path: &Path) -> Result<ClusterInit, Failure> {
    let failed = |code, why: String| {
        Failure::new(
            code,
            format!(
                "CCD-2086 {} cannot be used: {why}; make it with `ccdadm setup`, or name the folder with --etc",
                path.display()
            ),
        )
    };
    let mut text = String::new();
    let limit = ccd_core::init::INIT_BYTES_MAX as u64 + 1;
    let read = std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            return Err(failed(exit::NO_SUCH_FILE, missing.to_string()));
        }
        Err(denied) if denied.kind() == io::ErrorKind::PermissionDenied => {
            return Err(failed(exit::NOT_PERMITTED, denied.to_string()));
        }
        Err(error) => return Err(failed(exit::BAD_DATA, error.to_string())),
    }
    ClusterInit::parse(&text).map_err(|error| failed(exit::BAD_DATA, error.to_string()))
}

/// The init database of this server, read when it is there.
pub fn of(global: &Global) -> Result<ClusterInit, Failure> {
    read_init(&global.etc.join("init.ccd"))
}

/// `alpha (node 0)`, or `node 0` if nobody knows its name.
pub fn node_text(init: Option<&ClusterInit>, cluster: ClusterId, node: NodeId) -> String {
    let named = init
        .filter(|init| init.id() == cluster)
        .and_then(|init| init.node(node));
    match named {
        Some(named) => format!("{} (node {node})", named.name),
        None => format!("node {node}"),
    }
}

/// This server's node, by the node file.
pub fn own_node(global: &Global, init: &ClusterInit) -> Option<NodeId> {
    let text = std::fs::read_to_string(global.etc.join("node")).ok()?;
    init.node_named(text.trim()).map(|node| node.id)
}

/// Where the init database says that the device of this role is.
pub fn device_path(init: &ClusterInit, role: DeviceRole) -> Option<PathBuf> {
    let row = init.devices().iter().find(|device| device.role == role)?;
    Some(PathBuf::from(&row.path))
}
