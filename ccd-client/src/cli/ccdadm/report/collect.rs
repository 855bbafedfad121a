//! What goes into a report: what the daemon says, the files of this node, and what `machine.rs` adds.

use super::machine;
use crate::cli::Common;
use crate::cli::ccdadm::PROGRAM;
use crate::cli::ccdadm::history;
use crate::cli::ccdadm::status;
use crate::cli::ccdadm::why;
use crate::cli::terminal::Terminal;
use crate::client::{Client, Freshness};
use crate::error::CcdError;
use crate::files;
use crate::places::Places;
use crate::wire::{HistoryAsk, HistoryItem};
use ccd_core::database::{Row, format_text};
use ccd_core::init::{ClusterInit, OPTIONS, RESERVED, WORD_OPTIONS};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Largest part: what is longer is cut, and says so at its end.
const PART_BYTES_MAX: usize = 16 << 20;

/// One file of the archive.
#[derive(Debug)]
pub struct Part {
    pub name: &'static str,
    pub about: &'static str,
    /// Or why it is not there.
    pub content: Result<Vec<u8>, String>,
}

impl Part {
    pub fn new(name: &'static str, about: &'static str, content: Result<Vec<u8>, String>) -> Self {
        let content = content.map(|mut bytes| {
            if bytes.len() > PART_BYTES_MAX {
                bytes.truncate(PART_BYTES_MAX);
                bytes.extend_from_slice(b"\n[cut here]\n");
            }
            bytes
        });
        Self { name, about, content }
    }
}

pub fn all(common: &Common, terminal: &Terminal, values: bool, last: u32) -> Vec<Part> {
    terminal.detail("asking the daemon");
    let client = match common.timeout {
        Some(timeout) => Client::attach_within(&common.places, PROGRAM, timeout),
        None => Client::attach(&common.places, PROGRAM),
    };
    let client = client.map_err(said);
    let ask = |question: &dyn Fn(&Client) -> Result<Vec<u8>, CcdError>| match &client {
        Ok(client) => question(client).map_err(said),
        Err(why) => Err(why.clone()),
    };
    let mut parts = vec![
        Part::new("status.json", "ccdadm status --json", ask(&status_document)),
        Part::new(
            "decisions.jsonl",
            "ccdadm why --json",
            ask(&|client| decisions(client, last)),
        ),
        Part::new("keys.json", "keys, columns, number of rows", ask(&keys)),
        Part::new(
            "record.txt",
            "consistency record of this node's copy",
            ask(&record),
        ),
        Part::new(
            "history.jsonl",
            "the last updates: who, when, which keys",
            ask(&|client| updates(client, last, values)),
        ),
        Part::new("branches.json", "branches that are kept", ask(&branches)),
    ];
    if values {
        let text = ask(&|client| Ok(client.snapshot(Freshness::Stale)?.to_text().into_bytes()));
        parts.push(Part::new(
            "database.ccd",
            "this node's copy, with all values",
            text,
        ));
    }
    terminal.detail("reading files");
    let init = files::read_init(&common.places).map_err(said);
    parts.push(Part::new(
        "versions.txt",
        "versions of programs",
        Ok(versions(&client)),
    ));
    parts.push(Part::new(
        "init.ccd",
        if values {
            "the init database"
        } else {
            "the init database, values of own rows left out"
        },
        init.as_ref()
            .map(|init| init_text(init, values))
            .map_err(Clone::clone),
    ));
    parts.push(Part::new(
        "options.txt",
        "options of the cluster, as they are set or else",
        init.as_ref().map(options).map_err(Clone::clone),
    ));
    parts.push(Part::new(
        "files.txt",
        "names, sizes and modes in the three folders",
        Ok(listing(&common.places)),
    ));
    terminal.detail("asking ccd-disk, the log and the kernel");
    parts.extend(machine::all(&common.places, init.as_ref().ok(), last));
    parts
}

fn said(error: CcdError) -> String {
    format!("{}: {error}", error.message())
}

fn lines(documents: impl Iterator<Item = Value>) -> Vec<u8> {
    documents
        .flat_map(|document| (document.to_string() + "\n").into_bytes())
        .collect()
}

fn status_document(client: &Client) -> Result<Vec<u8>, CcdError> {
    let report = client.status()?;
    let document = status::document(&report);
    Ok(format!("{document:#}\n").into_bytes())
}

fn decisions(client: &Client, last: u32) -> Result<Vec<u8>, CcdError> {
    let decisions = client.decisions(last)?;
    Ok(lines(decisions.iter().map(why::document)))
}

fn keys(client: &Client) -> Result<Vec<u8>, CcdError> {
    let found = client.keys(Freshness::Stale)?;
    let keys: Vec<Value> = (found.keys.iter())
        .map(|(key, columns, rows)| json!({ "key": key.as_str(), "columns": columns, "rows": rows }))
        .collect();
    let document = json!({ "position": found.position.to_string(), "keys": keys });
    Ok(format!("{document:#}\n").into_bytes())
}

fn record(client: &Client) -> Result<Vec<u8>, CcdError> {
    let database = client.snapshot(Freshness::Stale)?;
    let text = database.to_text();
    let record = text.lines().last().unwrap_or_default();
    Ok(format!("{record}\n").into_bytes())
}

/// Not the rows, and not the reasons, which people write as they like.
fn updates(client: &Client, last: u32, values: bool) -> Result<Vec<u8>, CcdError> {
    let ask = HistoryAsk {
        key: None,
        last,
        before: None,
        rows: values,
    };
    let told = client.history(ask)?;
    Ok(lines(told.items.iter().map(|item| match item {
        HistoryItem::Update(update) => {
            let mut document = history::document(update);
            if !values {
                document["reason"] = json!(update.reason.as_ref().map(|_| "(left out)"));
            }
            document
        }
        HistoryItem::Gap(gap) => json!({ "gap": { "after": gap.after.0, "up_to": gap.up_to.0 } }),
    })))
}

fn branches(client: &Client) -> Result<Vec<u8>, CcdError> {
    let branches = client.branches()?;
    let branches: Vec<Value> = (branches.iter())
        .map(|branch| json!({ "name": branch.name, "kept_ms": branch.kept.0, "bytes": branch.bytes }))
        .collect();
    Ok(format!("{:#}\n", json!({ "branches": branches })).into_bytes())
}

fn versions(client: &Result<Client, String>) -> Vec<u8> {
    let report = client.as_ref().ok().and_then(|client| client.status().ok());
    let daemon = report.map_or_else(|| "not reachable".to_owned(), |report| report.daemon_version);
    let programs = ["ccdd", "ccdctl", "ccd-disk"].map(|program| {
        let said = machine::program(program, &["--version"]);
        format!(
            "{program}: {}",
            said.map_or_else(|why| why, |text| String::from_utf8_lossy(&text).trim().to_owned())
        )
    });
    let own = env!("CARGO_PKG_VERSION");
    format!(
        "ccdadm: {own}\nrunning daemon: {daemon}\n{}\n",
        programs.join("\n")
    )
    .into_bytes()
}

/// Reserved rows as they are; of others, only that they are there.
fn init_text(init: &ClusterInit, values: bool) -> Vec<u8> {
    if values {
        return init.to_text().into_bytes();
    }
    let is_reserved = |row: &&Row| RESERVED.iter().any(|(key, _)| *key == row.key.as_str());
    let mut text = String::new();
    for (key, columns) in init.formats() {
        let rows: Vec<&Row> = init.rows().iter().filter(|row| row.key == *key).collect();
        let Some(first) = rows.first() else { continue };
        text += &format_text(key, columns);
        text.push('\n');
        if is_reserved(first) {
            for row in rows {
                text += &row.to_text();
                text.push('\n');
            }
        } else {
            text += &format!("# {} rows of {key}, values left out\n", rows.len());
        }
    }
    text.into_bytes()
}

fn options(init: &ClusterInit) -> Vec<u8> {
    let rows = init.rows().iter().filter(|row| row.key.as_str() == "OPTION");
    let set: Vec<(&String, &String)> = rows.map(|row| (&row.values[0], &row.values[1])).collect();
    let names = OPTIONS
        .iter()
        .map(|option| (option.name, option.default.to_string()));
    let words = WORD_OPTIONS
        .iter()
        .map(|option| (option.name, "not set".to_owned()));
    let mut text = String::new();
    for (name, default) in names.chain(words) {
        let found = set.iter().find(|(set, _)| *set == name);
        let (value, how) = found.map_or((default.as_str(), " (by default)"), |(_, value)| {
            (value.as_str(), "")
        });
        text += &format!("{name} = {value}{how}\n");
    }
    text.into_bytes()
}

fn listing(places: &Places) -> Vec<u8> {
    let mut text = String::new();
    for folder in [&places.etc, &places.state, &places.run] {
        text += &format!("{}:\n", folder.display());
        list(folder, 1, &mut text);
    }
    text.into_bytes()
}

fn list(folder: &Path, depth: usize, text: &mut String) {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return *text += &format!("{:>1$}{error}\n", "", 2 * depth),
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        *text += &format!(
            "{:>indent$}{:06o} {}:{} {:>12} {} {name}\n",
            "",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.len(),
            metadata.mtime(),
            indent = 2 * depth,
        );
        if metadata.is_dir() && depth < 3 {
            list(&path, depth + 1, text);
        }
    }
}
