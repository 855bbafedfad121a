//! `ccd-disk fence`: who may write to a device, and what an operator can do about it.
//!
//! ```text
//! mod.rs       the verbs' flags
//! situation.rs what is registered on one device, whose it is, and which nodes are alive there
//! status.rs    shows it
//! change.rs    register, preempt, clear: what is refused without --force, and what is read back
//! ```

mod change;
mod situation;
mod status;

pub use change::new_key;
pub use situation::Situation;

use super::output::Output;
use super::{Failure, Global};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Show or change who may write to a device (persistent reservations)
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ccd-disk fence status
  ccd-disk fence preempt --victim beta /dev/ccd/prod/primary /dev/ccd/prod/secondary")]
pub struct FenceArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Status(StatusArgs),
    Register(RegisterArgs),
    Preempt(PreemptArgs),
    Clear(ClearArgs),
}

/// Show who is registered and who holds the reservation
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ccd-disk fence status                                  both devices of /etc/ccd/init.ccd
  ccd-disk fence status --json /dev/mapper/ccd-p | jq '.[0].holder'

Changes nothing.

Exit codes: 0 every device can be fenced, and only this cluster's nodes are registered, 1 not so.")]
struct StatusArgs {
    /// Devices (default: those of init.ccd)
    devices: Vec<PathBuf>,
}

/// Let this server write to a device, as a node of the cluster
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ccd-disk fence register --dry-run /dev/ccd/prod/primary
  ccd-disk fence register /dev/ccd/prod/primary /dev/ccd/prod/secondary

For repair, with no ccdd running here: ccdd registers by itself, where the cluster lets it.
Whoever is registered can write, so this takes back what another node did when it fenced this
one.")]
struct RegisterArgs {
    #[command(flatten)]
    common: Common,
    /// Devices
    #[arg(required = true)]
    devices: Vec<PathBuf>,
}

/// Take the right to write from a node, or from a foreign key
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ccd-disk fence preempt --victim beta /dev/ccd/prod/primary /dev/ccd/prod/secondary
  ccd-disk fence preempt --victim 0x123abc --force prod /dev/ccd/prod/primary

Its writes in flight are aborted. If this server is not registered, it is registered first; it
stays registered, and holds the reservation if nobody else does.")]
struct PreemptArgs {
    #[command(flatten)]
    common: Common,
    /// The node's name or number (all its keys), or one key as 0x…
    #[arg(long, value_name = "NODE|KEY")]
    victim: String,
    /// Devices
    #[arg(required = true)]
    devices: Vec<PathBuf>,
}

/// Remove every registration and the reservation: then anybody can write
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ccd-disk fence clear --yes --force prod /dev/ccd/prod/secondary

For disks that leave the cluster, and for what another program left behind. A cluster that
serves notices and registers again.")]
struct ClearArgs {
    #[command(flatten)]
    common: Common,
    /// Devices
    #[arg(required = true)]
    devices: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct Common {
    /// This server's node, by name or number (default: /etc/ccd/node)
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Do it although a living node or a foreign key would lose its right to write: the cluster's name
    #[arg(long, value_name = "CLUSTER")]
    force: Option<String>,
}

pub fn run(global: &Global, args: &FenceArgs, output: &mut Output) -> Result<u8, Failure> {
    match &args.verb {
        Verb::Status(args) => status::run(global, args, output),
        Verb::Register(args) => change::register(global, args, output),
        Verb::Preempt(args) => change::preempt(global, args, output),
        Verb::Clear(args) => change::clear(global, args, output),
    }
}
