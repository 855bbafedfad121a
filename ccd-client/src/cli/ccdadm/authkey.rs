//! `ccdadm authkey`: changes the secret that nodes prove to each other, step by step, without stopping the cluster.
//!
//! Works on this node's file alone; the daemon hears of it by `systemctl reload ccdd`. Always holds: the file is replaced
//! whole, readable by its owner only, and never without the key that was in use before the step.

use super::PROGRAM;
use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::table::table;
use crate::cli::terminal::Terminal;
use crate::error::CcdError;
use crate::exit::Exit;
use crate::files::{self, Authkey, Authkeys};
use crate::messages;
use crate::wire::LinkReport;
use serde_json::{Value, json};

/// Show the authkeys of this node, or change them without stopping the cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A node begins connections with the first key of /etc/ccd/authkey and accepts every one. To
change the key, do each step on all nodes before the next:

  1. ccdadm authkey add              on one node; copy the file to the others:
                                     scp -p /etc/ccd/authkey beta:/etc/ccd/
     systemctl reload ccdd           on every node: the new key is accepted
  2. ccdadm authkey promote          on every node, and
     systemctl reload ccdd           the new key is used
  3. ccdadm authkey drop --yes       on every node, and
     systemctl reload ccdd           the old key is refused

Examples:
  ccdadm authkey list               over how many connections is which key used?
  ccdadm authkey add --dry-run

Each step can be undone before the next is begun: promote once more uses the old key again.

Exit codes: 65 the file is no list of keys, 66 there is none, 77 not permitted, 107 the step
does not fit where the rotation is.")]
pub(super) struct AuthkeyVerb {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, clap::Subcommand)]
enum Step {
    /// Show the names of the keys, and over how many connections each is in use
    List,
    /// Make a new key, accepted from now on and not yet used
    Add(Change),
    /// Use the newest key, which is the last of the file, and go on accepting the others
    Promote(Change),
    /// Keep only the key that is used
    Drop {
        #[command(flatten)]
        change: Change,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        /// Also if a connection of this node still uses a key that goes
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Change {
    /// Say what the file would hold, write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl AuthkeyVerb {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        match &self.step {
            Step::List => list(common, terminal),
            Step::Add(change) => {
                let doing = "add an authkey";
                let keys = Authkeys::read(&common.places).doing(doing)?;
                let key = Authkey::generate()
                    .map_err(|error| Stop::new(&messages::INTERNAL, doing, error.to_string()))?;
                let added = keys.with(key).map_err(|why| {
                    let path = common.places.authkey_path();
                    unfit(doing, CcdError::Authkey { path, why }.to_string())
                })?;
                let next =
                    "copy the file to all other nodes, and systemctl reload ccdd on every node; then promote";
                change.write(common, terminal, doing, &added, next)
            }
            Step::Promote(change) => {
                let doing = "promote the newest authkey";
                let keys = Authkeys::read(&common.places).doing(doing)?;
                if keys.iter().count() == 1 {
                    return Err(unfit(doing, "there is only one key"));
                }
                let next = "systemctl reload ccdd, and the same on all other nodes; then drop";
                change.write(common, terminal, doing, &keys.promoted(), next)
            }
            Step::Drop { change, yes, force } => {
                let doing = "drop the old authkeys";
                let keys = Authkeys::read(&common.places).doing(doing)?;
                let kept = keys.first_only();
                if keys == kept {
                    return Err(unfit(doing, "there is only one key"));
                }
                let id = kept.first().id().to_string();
                let still = links(common).into_iter().find(|link| {
                    let connection = link.connection.as_ref();
                    connection.is_some_and(|connection| connection.authkey != id)
                });
                if let (Some(link), false) = (still, *force) {
                    let why = format!(
                        "the connection to node {} at {} does not use {id}",
                        link.node, link.address
                    );
                    return Err(unfit(doing, why).and_try(
                        "systemctl reload ccdd on all nodes, then again; or --force, which cuts that connection at the \
                         next reload",
                    ));
                }
                if !change.dry_run {
                    let question = format!("This forgets all authkeys but {id}.");
                    terminal.confirm(*yes, doing, &question)?;
                }
                let next = "systemctl reload ccdd, and the same on all other nodes";
                change.write(common, terminal, doing, &kept, next)
            }
        }
    }
}

impl Change {
    fn write(
        &self,
        common: &Common,
        terminal: &mut Terminal,
        doing: &str,
        keys: &Authkeys,
        next: &str,
    ) -> Result<Exit, Stop> {
        if !self.dry_run {
            let path = common.places.authkey_path();
            files::write_whole(&path, keys.to_text().as_bytes(), 0o400).map_err(|error| {
                let why = format!("{}: {error}", path.display());
                Stop::new(&messages::CANNOT_CREATE, doing, why)
            })?;
            terminal.note(&format!("next: {next}"));
        }
        show(keys, &links(common), terminal)?;
        Ok(Exit::Done)
    }
}

fn unfit(doing: &str, why: impl Into<String>) -> Stop {
    Stop::new(&messages::AUTHKEY_STEP, doing, why)
}

/// What the daemon sends over; nothing if it does not run.
fn links(common: &Common) -> Vec<LinkReport> {
    let client = common.attach(PROGRAM, "ask the daemon");
    let report = client.ok().and_then(|client| client.status().ok());
    report.map(|report| report.links).unwrap_or_default()
}

fn list(common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
    let keys = Authkeys::read(&common.places).doing("list the authkeys")?;
    show(&keys, &links(common), terminal)?;
    Ok(Exit::Done)
}

fn show(keys: &Authkeys, links: &[LinkReport], terminal: &mut Terminal) -> Result<(), Stop> {
    let uses = |id: &str| {
        let connections = links.iter().filter_map(|link| link.connection.as_ref());
        connections.filter(|connection| connection.authkey == id).count()
    };
    let rows: Vec<(String, bool)> = keys
        .iter()
        .map(|key| (key.id().to_string(), key == keys.first()))
        .collect();
    if terminal.json {
        let keys: Vec<Value> = rows
            .iter()
            .map(|(id, used)| json!({ "id": id, "used": used, "connections": uses(id) }))
            .collect();
        return terminal.document(&json!({ "keys": keys }));
    }
    let rows = rows.iter().map(|(id, used)| {
        let role = if *used { "used" } else { "accepted" };
        vec![id.clone(), role.to_owned(), uses(id).to_string()]
    });
    terminal.line(&table(&["AUTHKEY", "ROLE", "CONNECTIONS"], rows.collect()))
}
