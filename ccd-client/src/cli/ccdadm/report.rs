//! `ccdadm report`: one archive with what somebody needs who is asked for help.
//!
//! ```text
//! report/collect.rs    what goes in, and what is missing and why
//! report/machine.rs    what other programs and the kernel say: regions, log, devices
//! ```
//!
//! Always holds: without `--values` no value of a row is in it, and never the authkey; it works with no daemon, and says in its
//! MANIFEST what could not be had.

mod collect;
mod machine;

use crate::cli::Common;
use crate::cli::failure::Stop;
use crate::cli::table::date_text;
use crate::cli::terminal::Terminal;
use crate::client::now;
use crate::exit::Exit;
use crate::messages;
use collect::Part;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Collect what is needed to find a fault into one archive, without any value of a row
#[derive(Debug, clap::Args)]
#[command(after_help = "\
In it: status, decisions, versions, keys with their number of rows, the consistency record, who
changed which key when, the init database without the values of your own rows, what ccd-disk says
of the regions and their reservations, the log, and facts of the machine. What could not be had is
said in its file MANIFEST. The authkey is never in it. The log holds what synchronization commands
wrote to standard error.

Examples:
  ccdadm report
  ccdadm report --output /root/ccd.tar.gz
  ccdadm report --output - | ssh desk 'cat > alpha.tar.gz'
  ccdadm report --values --output all.tar.gz   with all rows, and the reasons of updates

Exit codes: 0 it was written, 73 it could not be, 108 the file exists.")]
pub(super) struct Report {
    /// The file, which must not exist; - is standard output [default: ccd-report-TIME.tar.gz here]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// With the values of rows, and the reasons that were given for updates
    #[arg(long)]
    values: bool,
    /// How many of the last lines of the log, decisions and updates
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    last: u32,
}

const DOING: &str = "write the report";

impl Report {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let name = format!("ccd-report-{}", file_stamp());
        let to_stdout = self.output.as_deref() == Some(Path::new("-"));
        if to_stdout && io::stdout().is_terminal() {
            let why = "standard output is a terminal, and the report is an archive";
            return Err(Stop::new(&messages::USAGE, DOING, why).and_try("ccdadm report --output FILE"));
        }
        let path = self
            .output
            .clone()
            .unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
        if !to_stdout && path.symlink_metadata().is_ok() {
            return Err(Stop::new(
                &messages::FILE_EXISTS,
                DOING,
                format!("{} exists", path.display()),
            )
            .and_try("another name with --output, or remove it"));
        }
        let parts = collect::all(common, terminal, self.values, self.last);
        let archive = archive(&name, &parts)
            .map_err(|error| Stop::new(&messages::INTERNAL, DOING, error.to_string()))?;
        if to_stdout {
            terminal.bytes(&archive)?;
        } else {
            write_new(&path, &archive).map_err(|error| {
                let message = match error.kind() {
                    io::ErrorKind::AlreadyExists => &messages::FILE_EXISTS,
                    io::ErrorKind::PermissionDenied => &messages::FILE_NOT_PERMITTED,
                    _ => &messages::CANNOT_CREATE,
                };
                Stop::new(message, DOING, format!("{}: {error}", path.display()))
            })?;
            self.tell(&path, &parts, terminal)?;
        }
        Ok(Exit::Done)
    }

    fn tell(&self, path: &Path, parts: &[Part], terminal: &mut Terminal) -> Result<(), Stop> {
        if terminal.json {
            let parts: Vec<Value> = (parts.iter())
                .map(|part| {
                    let bytes = part.content.as_ref().ok().map(Vec::len);
                    json!({ "name": part.name, "bytes": bytes, "missing": part.content.as_ref().err() })
                })
                .collect();
            return terminal.document(
                &json!({ "file": path.display().to_string(), "values": self.values, "parts": parts }),
            );
        }
        for part in parts {
            if let Err(why) = &part.content {
                terminal.note(&format!("not in it: {}: {why}", part.name));
            }
        }
        terminal.line(&path.display().to_string())
    }
}

/// `20261126T061500Z`
fn file_stamp() -> String {
    let date = date_text(now());
    let seconds = date.split('.').next().unwrap_or_default();
    let digits: String = seconds.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    digits + "Z"
}

/// The parts and their MANIFEST in one folder of an archive.
fn archive(folder: &str, parts: &[Part]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let mut add = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now().0 / 1000);
        header.set_cksum();
        archive.append_data(&mut header, format!("{folder}/{name}"), content)
    };
    add("MANIFEST", manifest(parts).as_bytes())?;
    for part in parts {
        if let Ok(content) = &part.content {
            add(part.name, content)?;
        }
    }
    archive.into_inner()?.finish()
}

fn manifest(parts: &[Part]) -> String {
    let mut text = format!(
        "ccdadm {} report of {}\n\n",
        env!("CARGO_PKG_VERSION"),
        date_text(now())
    );
    for part in parts {
        let line = match &part.content {
            Ok(content) => format!("{}: {} ({} bytes)\n", part.name, part.about, content.len()),
            Err(why) => format!("{}: {}: MISSING: {why}\n", part.name, part.about),
        };
        text += &line;
    }
    text
}

/// Writes a file that nobody else may read and that was not there; or leaves nothing behind.
fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if written.is_err() {
        // What failed is reported; that its remains could not be removed either adds nothing.
        let _ = fs::remove_file(path);
    }
    written
}
