//! `ccd-disk probe`: says in udev's words whose region a device is, or nothing.

use super::output::Output;
use super::{Failure, Global, exit, open};
use crate::device::Access;
use crate::error::RegionError;
use crate::format::superblock::Superblock;
use crate::region::handle::Handle;
use crate::region::label::Label;
use ccd_core::init::check_name;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Print whose region a device is as KEY=value lines, for udev
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ccd-disk probe /dev/sdb
  IMPORT{program}=\"/usr/bin/ccd-disk probe $devnode\"       in a udev rule

Reads two blocks, and nothing else. CCD_CLUSTER is there only if the cluster's name can be part of
a path.

Exit codes: 0 it is a region, 1 it is none, and nothing is printed.")]
pub struct ProbeArgs {
    /// Device or file
    path: PathBuf,
}

#[derive(Debug, Serialize)]
struct Probed {
    #[serde(rename = "CCD_CLUSTER", skip_serializing_if = "Option::is_none")]
    cluster_name: Option<String>,
    #[serde(rename = "CCD_CLUSTER_ID")]
    cluster: String,
    #[serde(rename = "CCD_ROLE")]
    role: String,
    #[serde(rename = "CCD_REGION")]
    region: String,
    #[serde(rename = "CCD_TWIN", skip_serializing_if = "Option::is_none")]
    twin: Option<String>,
}

impl Probed {
    fn new(superblock: &Superblock) -> Self {
        let name = &superblock.label;
        Self {
            // The label is whatever somebody once wrote to the disk: only what is a cluster's name becomes part of a path.
            cluster_name: check_name(name).is_ok().then(|| name.clone()),
            cluster: superblock.identity.cluster.to_string(),
            role: superblock.identity.replica.to_string(),
            region: superblock.identity.region.to_string(),
            twin: superblock.twin.map(|twin| twin.to_string()),
        }
    }

    fn lines(&self) -> Vec<(&'static str, &str)> {
        let mut lines = Vec::new();
        if let Some(name) = &self.cluster_name {
            lines.push(("CCD_CLUSTER", name.as_str()));
        }
        lines.push(("CCD_CLUSTER_ID", &self.cluster));
        lines.push(("CCD_ROLE", &self.role));
        lines.push(("CCD_REGION", &self.region));
        if let Some(twin) = &self.twin {
            lines.push(("CCD_TWIN", twin));
        }
        lines
    }
}

pub fn run(_: &Global, args: &ProbeArgs, output: &mut Output) -> Result<u8, Failure> {
    let mut handle = Handle::new(Box::new(open(&args.path, Access::ReadOnly)?));
    let label = match Label::read(&mut handle) {
        Ok(label) => label,
        // Another version's region is a region, but nobody here may touch it.
        Err(RegionError::NoRegion { .. } | RegionError::TooNew { .. }) => return Ok(exit::NO),
        // Cut short, unreadable: udev writes it to its log.
        Err(failed) => return Err(failed.into()),
    };
    let probed = Probed::new(&label.superblock);
    output.result(&probed, |to| {
        for (key, value) in probed.lines() {
            writeln!(to, "{key}={value}")?;
        }
        Ok(())
    })?;
    Ok(exit::DONE)
}
