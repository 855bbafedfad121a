//! `ccdadm setup`: makes init database, authkey and node file.
//!
//! Always holds: what exists is never replaced by something that means another cluster. `--force` with the same name
//! keeps id, key and the user's own rows.

use super::devices;
use crate::cli::Common;
use crate::cli::address::parse_address;
use crate::cli::failure::{Doing, Stop};
use crate::cli::terminal::Terminal;
use crate::error::CcdError;
use crate::exit::Exit;
use crate::files::{self, Authkey, Authkeys};
use crate::messages;
use crate::places::Places;
use ccd_core::database::{Key, Row, RowError};
use ccd_core::ids::{ClusterId, DeviceRole, ServerId};
use ccd_core::init::{ClusterInit, Fencing, NodeAddress};
use serde_json::json;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Make the init database and the authkey of a cluster, or say which node this is
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm setup --cluster prod --node alpha=10.0.0.1 --node beta=10.0.0.2 \\
         --primary /dev/disk/by-id/scsi-1 --secondary /dev/disk/by-id/scsi-2 --this alpha
  ccdadm setup --this beta          on the other node, after copying init.ccd and authkey there
  ccdadm setup --cluster prod --node alpha=10.0.0.1 --node alpha=10.1.0.1 --node beta=10.0.0.2 \\
         --node beta=10.1.0.2       two networks
  ccdadm setup --cluster lab --node a=127.0.0.1:7001 --node b=127.0.0.1:7002 \\
         --primary /tmp/p --secondary /tmp/s --fencing lease --option lease_ms=2000
  ccdadm setup --cluster web --node a=10.0.0.1 --node b=10.0.0.2 --node c=10.0.0.3
                                    three nodes, no devices: by quorum
  ccdadm setup --force --cluster prod --node alpha=10.0.0.1 --node beta=10.0.0.7
                                    new rows; id, key and your own rows stay

Options of the cluster (--option NAME=VALUE) are in ccd-init(5), and ccdadm edit-init --options
lists them with their ranges.

Exit codes: 64 the options describe no cluster, 65 a device or file is unfit,
108 a cluster is set up here already.")]
pub(super) struct Setup {
    /// Name of the cluster
    #[arg(long, value_name = "NAME", requires = "node")]
    cluster: Option<String>,
    /// A node and its address; again for further addresses and for further nodes, numbered from 0 in this order
    #[arg(long, value_name = "NAME=ADDRESS[:PORT]", requires = "cluster")]
    node: Vec<String>,
    /// The primary device
    #[arg(long, value_name = "PATH", requires = "cluster")]
    primary: Option<PathBuf>,
    /// The secondary device
    #[arg(long, value_name = "PATH", requires = "primary")]
    secondary: Option<PathBuf>,
    /// How nodes are kept from writing: scsi by reservations, lease by waiting only [default: scsi with devices]
    #[arg(long, value_name = "scsi|lease", value_parser = parse_fencing, requires = "primary")]
    fencing: Option<Fencing>,
    /// An option of the cluster
    #[arg(long, value_name = "NAME=VALUE", requires = "cluster")]
    option: Vec<String>,
    /// Which node this is
    #[arg(long, value_name = "NODE")]
    this: Option<String>,
    /// Replace the rows of the cluster of the same name that is set up here
    #[arg(long, requires = "cluster")]
    force: bool,
    /// Say what would be written, write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

const DOING: &str = "set up the cluster";

impl Setup {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let places = &common.places;
        let Some(name) = &self.cluster else {
            return self.this_node_only(places, terminal);
        };
        let before = self.existing(places, name)?;
        let init = self.cluster(name, before.as_ref(), terminal)?;
        let this = self
            .this
            .as_deref()
            .map(|this| this_node(&init, this))
            .transpose()?;
        let key = match Authkeys::read(places) {
            Ok(_) => None,
            Err(CcdError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let failed = |error: std::io::Error| Stop::new(&messages::INTERNAL, DOING, error.to_string());
                Some(Authkeys::of(Authkey::generate().map_err(failed)?))
            }
            Err(error) => return Err(error).doing(DOING),
        };
        let mut written = vec![(places.init_path(), init_text(&init), 0o644)];
        if let Some(key) = &key {
            written.push((places.authkey_path(), key.to_text(), 0o400));
        }
        if let Some(this) = &this {
            written.push((places.node_path(), format!("{this}\n"), 0o644));
        }
        self.write(places, &written, terminal)?;
        self.tell(&init, this.as_deref(), &written, terminal)
    }

    /// Only `--this`: the init database came from the node where it was made.
    fn this_node_only(&self, places: &Places, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let Some(this) = &self.this else {
            return Err(Stop::new(
                &messages::SETUP_BAD,
                DOING,
                "neither --cluster nor --this was given",
            ));
        };
        let init = files::read_init(places).doing(DOING).map_err(|stop| {
            stop.and_try("copy init.ccd and authkey from the node where the cluster was set up, then repeat")
        })?;
        let this = this_node(&init, this)?;
        let written = vec![(places.node_path(), format!("{this}\n"), 0o644)];
        self.write(places, &written, terminal)?;
        self.tell(&init, Some(&this), &written, terminal)
    }

    /// The cluster that is set up here, if it may be changed.
    fn existing(&self, places: &Places, name: &str) -> Result<Option<ClusterInit>, Stop> {
        let path = places.init_path();
        if !path.exists() {
            return Ok(None);
        }
        if !self.force {
            return Err(Stop::new(
                &messages::CLUSTER_EXISTS,
                DOING,
                format!("{} exists", path.display()),
            ));
        }
        let before = files::read_init(places).doing(DOING)?;
        if before.name() != name {
            return Err(Stop::new(
                &messages::WRONG_CLUSTER_NAME,
                DOING,
                format!("{} is of the cluster {:?}", path.display(), before.name()),
            )
            .and_try(format!(
                "remove {} yourself if that cluster is to go",
                path.display()
            )));
        }
        Ok(Some(before))
    }

    /// The rows that the options describe, checked as every reader will check them.
    fn cluster(
        &self,
        name: &str,
        before: Option<&ClusterInit>,
        terminal: &Terminal,
    ) -> Result<ClusterInit, Stop> {
        let id = match before {
            Some(before) => before.id(),
            None => new_cluster_id()?,
        };
        let mut rows = vec![row("CLUSTER", [name, &id.to_string()])?];
        let mut names: Vec<&str> = Vec::new();
        for node in &self.node {
            let Some((name, address)) = node.split_once('=') else {
                return Err(usage(format!("--node {node}: it is not NAME=ADDRESS[:PORT]")));
            };
            if !names.contains(&name) {
                let number = names.len().to_string();
                // The same as on the other nodes: a file of an earlier release has none.
                let server = match before.and_then(|before| before.node_named(name)) {
                    Some(known) => known.server,
                    None => new_server_id()?,
                };
                rows.push(if server.is_known() {
                    row("NODE", [&number, name, &server.to_string()])?
                } else {
                    row("NODE", [&number, name])?
                });
                names.push(name);
            }
            let NodeAddress { ip, port } = parse_address(address, terminal).map_err(usage)?;
            let port = port.map_or_else(String::new, |port| port.to_string());
            rows.push(row("ADDRESS", [name, &ip.to_string(), &port])?);
        }
        let paths = [
            (DeviceRole::Primary, &self.primary),
            (DeviceRole::Secondary, &self.secondary),
        ];
        let mut given = Vec::new();
        for (role, path) in paths {
            if let Some(path) = path {
                let path = path_text(path)?;
                rows.push(row("DEVICE", [role.name(), path])?);
                given.push((role, Path::new(path)));
            }
        }
        devices::check(&given, self.fencing, terminal)?;
        if let Some(fencing) = self.fencing {
            rows.push(row("OPTION", ["fencing", fencing.name()])?);
        }
        for option in &self.option {
            let Some((name, value)) = option.split_once('=') else {
                return Err(usage(format!("--option {option}: it is not NAME=VALUE")));
            };
            rows.push(row("OPTION", [name, value])?);
        }
        let mut text: String = rows.iter().map(|row| row.to_text() + "\n").collect();
        if let Some(before) = before {
            text.push_str(&own_rows(before));
        }
        ClusterInit::parse(&text).map_err(|error| {
            // The line is one of a text that the user has not seen.
            Stop::new(
                &messages::SETUP_BAD,
                DOING,
                format!("{}: {}", error.what, error.why),
            )
        })
    }

    fn write(
        &self,
        places: &Places,
        files: &[(PathBuf, String, u32)],
        terminal: &Terminal,
    ) -> Result<(), Stop> {
        if self.dry_run {
            return Ok(());
        }
        let failed = |path: &Path, error: std::io::Error| {
            Stop::new(
                &messages::CANNOT_CREATE,
                DOING,
                format!("{}: {error}", path.display()),
            )
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&places.etc)
            .map_err(|error| failed(&places.etc, error))?;
        for (path, text, mode) in files {
            files::write_whole(path, text.as_bytes(), *mode).map_err(|error| failed(path, error))?;
            terminal.detail(&format!("{} written", path.display()));
        }
        Ok(())
    }

    /// What was written, and what comes next.
    fn tell(
        &self,
        init: &ClusterInit,
        this: Option<&str>,
        files: &[(PathBuf, String, u32)],
        terminal: &mut Terminal,
    ) -> Result<Exit, Stop> {
        let paths: Vec<String> = files
            .iter()
            .map(|(path, ..)| path.display().to_string())
            .collect();
        if terminal.json {
            terminal.document(&json!({
                "cluster": init.name(),
                "id": init.id().to_string(),
                "nodes": init.nodes().iter().map(|node| json!({
                    "id": u8::from(node.id),
                    "name": node.name,
                    "addresses": node.addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
                })).collect::<Vec<_>>(),
                "fencing": init.options().fencing.name(),
                "files": paths,
                "dry_run": self.dry_run,
            }))?;
            return Ok(Exit::Done);
        }
        let verb = if self.dry_run {
            "dry run: would write"
        } else {
            "wrote"
        };
        terminal.note(&format!("{verb} {}", paths.join(", ")));
        if self.dry_run {
            return terminal.bytes(init.to_text().as_bytes()).map(|()| Exit::Done);
        }
        if self.cluster.is_some() && init.nodes().len() > 1 {
            terminal.note("next: copy init.ccd and authkey to the same folder of every other node");
        }
        if this.is_none() {
            terminal.note("next: ccdadm setup --this NAME, on every node");
        } else if self.cluster.is_some() && init.nodes().len() > 1 {
            terminal.note("next: ccdadm setup --this NAME, on every other node");
        }
        for device in init.devices() {
            let command = format!("ccd-disk mkfs --role {} {}", device.role, device.path);
            terminal.note(&format!("next: {command}     (once, from either node)"));
        }
        terminal.note("next: ccdd run, or systemctl enable --now ccdd, on every node");
        Ok(Exit::Done)
    }
}

fn parse_fencing(text: &str) -> Result<Fencing, String> {
    Fencing::named(text).ok_or_else(|| "it is neither scsi nor lease".to_owned())
}

fn usage(why: impl Into<String>) -> Stop {
    Stop::new(&messages::SETUP_BAD, DOING, why)
}

fn row<const N: usize>(key: &str, values: [&str; N]) -> Result<Row, Stop> {
    Key::new(key)
        .map_err(RowError::from)
        .and_then(|key| Row::new(key, values))
        .map_err(|error| usage(error.to_string()))
}

fn this_node(init: &ClusterInit, this: &str) -> Result<String, Stop> {
    let node = init.node_named(this).ok_or_else(|| {
        let known = files::node_list(init);
        Stop::new(
            &messages::NODE_UNKNOWN,
            DOING,
            format!("--this {this}: there are the nodes {known}"),
        )
    })?;
    Ok(node.name.clone())
}

fn new_cluster_id() -> Result<ClusterId, Stop> {
    let mut bytes = [0; 16];
    files::random(&mut bytes).map_err(|error| Stop::new(&messages::INTERNAL, DOING, error.to_string()))?;
    Ok(ClusterId(bytes))
}

/// Tells this server from any other that gets its number later.
fn new_server_id() -> Result<ServerId, Stop> {
    let mut bytes = [0; 8];
    files::random(&mut bytes).map_err(|error| Stop::new(&messages::INTERNAL, DOING, error.to_string()))?;
    Ok(ServerId(u64::from_le_bytes(bytes).max(1)))
}

/// An absolute path as text: the init database is read in any folder.
fn path_text(path: &Path) -> Result<&str, Stop> {
    let text = path.to_str().filter(|_| path.is_absolute());
    text.ok_or_else(|| usage(format!("{}: it is not an absolute path in UTF-8", path.display())))
}

/// Rows that setup does not make: `ACCESS` and the user's own, with their formats.
fn own_rows(init: &ClusterInit) -> String {
    const MADE: [&str; 5] = ["CLUSTER", "NODE", "ADDRESS", "DEVICE", "OPTION"];
    let text = init.to_text();
    let own = text.lines().filter(|line| {
        let key = line.split(':').next().unwrap_or_default();
        !MADE.contains(&key.strip_suffix("_fmt").unwrap_or(key))
    });
    own.map(|line| format!("{line}\n")).collect()
}

fn init_text(init: &ClusterInit) -> String {
    format!(
        "# Init database of the cluster {}. The same on every node; nodes compare it when they meet.\n{}",
        init.name(),
        init.to_text()
    )
}
