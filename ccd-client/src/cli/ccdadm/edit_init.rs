//! `ccdadm edit-init`: changes the init database by hand, as visudo does the sudoers file.
//!
//! Always holds: the file in place is one that every reader accepts, of the same cluster with the same nodes, or it is the
//! one that was there before; and two who edit at once do not undo each other's work.

use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::table::table;
use crate::cli::terminal::Terminal;
use crate::exit::Exit;
use crate::files;
use crate::lock_file::{LockError, LockFile};
use crate::messages;
use crate::places::Places;
use ccd_core::init::{ClusterInit, INIT_BYTES_MAX, OPTIONS, WORD_OPTIONS};
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Edit the init database, and check it before it replaces the old one
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The editor is VISUAL or EDITOR, or else vi. What it leaves is checked: every row, every option
with its range, no unknown option. If something is wrong, it can be edited again, or the old
file stays. The cluster's name and id, and which nodes there are, cannot be changed like this:
see ccdctl add-node and remove-node. Rows of your own need a format row before them.

A daemon reads the file when it starts, and nodes compare it when they meet: a change other
than of comments must be on all nodes before they are started again.

Examples:
  ccdadm edit-init
  ccdadm edit-init --options                what options there are, and what they are set to
  ccdadm edit-init --check                  is the file in order?
  ccdadm edit-init --dry-run --from new.ccd  what would change
  ssh beta cat /etc/ccd/init.ccd | ccdadm edit-init --from -

Exit codes: 65 a row is wrong, 107 it would be another cluster or have other nodes,
109 somebody else edits it.")]
pub(super) struct EditInit {
    /// Take this file in place of an editor's; - is standard input
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Only check the file
    #[arg(long, conflicts_with = "from")]
    check: bool,
    /// List the options with their values and ranges
    #[arg(long, conflicts_with_all = ["from", "check"])]
    options: bool,
    /// Say what would change, change nothing
    #[arg(short = 'n', long, conflicts_with_all = ["check", "options"])]
    dry_run: bool,
}

const DOING: &str = "edit the init database";

impl EditInit {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let places = &common.places;
        if self.options {
            let init = files::read_init(places).doing("list the options")?;
            return list_options(&init, terminal);
        }
        if self.check {
            let doing = "check the init database";
            let init = files::read_init(places).doing(doing)?;
            let rows = init.rows().len();
            if terminal.json {
                let digest: String = init.digest().iter().map(|byte| format!("{byte:02x}")).collect();
                terminal.document(&json!({ "sound": true, "rows": rows, "digest": digest }))?;
            } else {
                let path = places.init_path();
                terminal.line(&format!("{} is in order: {rows} rows", path.display()))?;
            }
            return Ok(Exit::Done);
        }
        // Two programs that write nothing do not disturb each other.
        let writes_nothing = self.dry_run && self.from.is_some();
        let _turn = (!writes_nothing).then(|| Turn::take(places)).transpose()?;
        if places.init_next_path().exists() {
            let why = "nodes are being added or removed just now";
            return Err(Stop::new(&messages::INIT_IN_USE, DOING, why));
        }
        let path = places.init_path();
        let old_text = files::read_text(&path, INIT_BYTES_MAX as u64).doing(DOING)?;
        // One that is wrong already can still be put right.
        let old = ClusterInit::parse(&old_text).ok();
        let (new_text, new) = match &self.from {
            Some(from) => {
                let text = files::read_text(from, INIT_BYTES_MAX as u64).doing(DOING)?;
                let init = check(&text, from, old.as_ref())?;
                (text, init)
            }
            None => edit(places, &old_text, old.as_ref(), terminal)?,
        };
        let change = Change::between(old.as_ref(), &new);
        if new_text == old_text {
            terminal.note("nothing was changed");
        } else if !self.dry_run {
            replace(&path, &old_text, &new_text)?;
        }
        self.tell(&path, new_text != old_text, &change, terminal)
    }

    fn tell(
        &self,
        path: &Path,
        is_changed: bool,
        change: &Change,
        terminal: &mut Terminal,
    ) -> Result<Exit, Stop> {
        if terminal.json {
            terminal.document(&json!({
                "file": path.display().to_string(),
                "changed": is_changed,
                "added": change.added,
                "removed": change.removed,
                "dry_run": self.dry_run,
            }))?;
        } else {
            for row in &change.removed {
                terminal.line(&format!("- {row}"))?;
            }
            for row in &change.added {
                terminal.line(&format!("+ {row}"))?;
            }
        }
        if is_changed && self.dry_run {
            terminal.note(&format!("dry run: would replace {}", path.display()));
        } else if is_changed && change.is_empty() {
            terminal.note(&format!(
                "replaced {}; the rows are the same as before",
                path.display()
            ));
        } else if is_changed {
            terminal.note(&format!("replaced {}", path.display()));
            terminal.note("next: stop the daemons, bring the same file to every node, start them: nodes compare it when they meet");
        }
        Ok(Exit::Done)
    }
}

/// What nodes compare.
#[derive(Debug)]
struct Change {
    added: Vec<String>,
    removed: Vec<String>,
}

impl Change {
    fn between(old: Option<&ClusterInit>, new: &ClusterInit) -> Self {
        let lines =
            |init: &ClusterInit| -> Vec<String> { init.to_text().lines().map(str::to_owned).collect() };
        let (old, new) = (old.map(lines).unwrap_or_default(), lines(new));
        let missing_in = |lines: &[String], all: &[String]| {
            let missing = all.iter().filter(|line| !lines.contains(line));
            missing.cloned().collect()
        };
        Self {
            added: missing_in(&old, &new),
            removed: missing_in(&new, &old),
        }
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

/// Nobody else edits as long as this is held. Its file is removed at the end.
#[derive(Debug)]
struct Turn(Option<LockFile>);

impl Turn {
    fn take(places: &Places) -> Result<Self, Stop> {
        let path = places.init_lock_path();
        match LockFile::take(&path) {
            Ok(lock) => Ok(Self(Some(lock))),
            Err(LockError::Held { .. }) => {
                let stop = Stop::new(&messages::INIT_IN_USE, DOING, "somebody else edits it just now");
                let next = format!(
                    "repeat the command when they have finished; fuser -v {} shows the process",
                    path.display()
                );
                Err(stop.and_try(next))
            }
            Err(LockError::Io { path, source }) => Err(cannot_write(&path, &source)),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(lock) = self.0.take() {
            lock.remove();
        }
    }
}

/// Lets an editor work on a copy until it is in order, or whoever edits gives up.
fn edit(
    places: &Places,
    old_text: &str,
    old: Option<&ClusterInit>,
    terminal: &mut Terminal,
) -> Result<(String, ClusterInit), Stop> {
    let copy = Copy::make(&places.etc, old_text)?;
    loop {
        run_editor(&copy.0)?;
        let edited = files::read_text(&copy.0, INIT_BYTES_MAX as u64)
            .doing(DOING)
            .and_then(|text| {
                let init = check(&text, &places.init_path(), old)?;
                Ok((text, init))
            });
        let flaw = match edited {
            Err(Stop::Failed(flaw)) => flaw,
            done => return done,
        };
        let question = format!("{}: {}\nEdit it again?", flaw.message, flaw.why);
        if terminal.confirm(false, DOING, &question).is_err() {
            return Err(Stop::Failed(flaw));
        }
    }
}

/// The file that the editor works on; gone when it is dropped.
#[derive(Debug)]
struct Copy(PathBuf);

impl Copy {
    fn make(etc: &Path, text: &str) -> Result<Self, Stop> {
        let path = etc.join(".init.ccd.edit");
        let written = (|| {
            // Whoever left it there is not editing any more: that would hold the lock.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut new = OpenOptions::new();
            let mut file = new.write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(text.as_bytes())
        })();
        match written {
            Ok(()) => Ok(Self(path)),
            Err(error) => Err(cannot_write(&path, &error)),
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // An editor may have taken it away, and one that is left is replaced the next time.
        let _ = fs::remove_file(&self.0);
    }
}

fn run_editor(path: &Path) -> Result<(), Stop> {
    let named = ["VISUAL", "EDITOR"].map(|name| std::env::var(name).unwrap_or_default());
    let editor = named.into_iter().find(|editor| !editor.trim().is_empty());
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    // It may have words of its own, as in EDITOR='emacs -nw'.
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("sh")
        .arg(path)
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Stop::new(
            &messages::EDITOR_FAILED,
            DOING,
            format!("{editor}: {status}"),
        )),
        Err(error) => Err(Stop::new(&messages::EDITOR_FAILED, DOING, error.to_string())),
    }
}

/// What every reader checks, and that it is still the same cluster.
fn check(text: &str, path: &Path, old: Option<&ClusterInit>) -> Result<ClusterInit, Stop> {
    let new = ClusterInit::parse(text).map_err(|source| {
        let error = crate::CcdError::Init {
            path: path.to_owned(),
            source,
        };
        Stop::new(error.message(), DOING, error.to_string())
            .and_try("correct the line; the file that was there is still there")
    })?;
    let Some(old) = old else {
        return Ok(new);
    };
    if (old.name(), old.id()) != (new.name(), new.id()) {
        let why = format!(
            "it would be another cluster: {} {}, not {} {}",
            new.name(),
            new.id(),
            old.name(),
            old.id()
        );
        return Err(Stop::new(&messages::INIT_FIXED, DOING, why));
    }
    if old.node_set() != new.node_set() {
        let why = "it would have other nodes, and editing does not change who has a vote";
        return Err(Stop::new(&messages::INIT_FIXED, DOING, why));
    }
    Ok(new)
}

fn replace(path: &Path, old_text: &str, new_text: &str) -> Result<(), Stop> {
    let now = files::read_text(path, INIT_BYTES_MAX as u64).doing(DOING)?;
    if now != old_text {
        let why = "it was changed by somebody else meanwhile";
        return Err(Stop::new(&messages::INIT_IN_USE, DOING, why));
    }
    let mode = fs::metadata(path).map_or(0o644, |metadata| metadata.permissions().mode() & 0o7777);
    files::write_whole(path, new_text.as_bytes(), mode).map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &io::Error) -> Stop {
    let message = match error.kind() {
        io::ErrorKind::PermissionDenied => &messages::FILE_NOT_PERMITTED,
        _ => &messages::CANNOT_CREATE,
    };
    Stop::new(message, DOING, format!("{}: {error}", path.display()))
}

fn list_options(init: &ClusterInit, terminal: &mut Terminal) -> Result<Exit, Stop> {
    let rows = init.rows().iter().filter(|row| row.key.as_str() == "OPTION");
    let set: Vec<_> = rows.map(|row| (&row.values[0], &row.values[1])).collect();
    let value_of = |name: &str| {
        set.iter()
            .find(|(set, _)| *set == name)
            .map(|(_, value)| value.as_str())
    };
    let numbers = OPTIONS.iter().map(|option| {
        let range = format!("{} to {}", option.min, option.max);
        (option.name, range, option.default.to_string(), option.about)
    });
    // What a word option is unless it is set depends on the cluster, and is said with it.
    let words = WORD_OPTIONS
        .iter()
        .map(|option| (option.name, option.words.to_owned(), String::new(), option.about));
    let all: Vec<_> = numbers.chain(words).collect();
    if terminal.json {
        let options: Vec<_> = all
            .iter()
            .map(|(name, range, default, about)| {
                let default = Some(default).filter(|default| !default.is_empty());
                json!({ "name": name, "set": value_of(name), "default": default, "range": range, "about": about })
            })
            .collect();
        terminal.document(&json!({ "options": options }))?;
    } else {
        let rows = all.iter().map(|(name, range, default, about)| {
            let set = value_of(name).unwrap_or_default();
            [name, set, default, range, about].map(str::to_owned).to_vec()
        });
        terminal.line(&table(
            &["OPTION", "SET TO", "ELSE", "RANGE", "WHAT"],
            rows.collect(),
        ))?;
    }
    Ok(Exit::Done)
}
