//! Boots the guest with the disks of two nodes, runs one command or script in it, and ends with its exit code.
//!
//! For trying things by hand; `tests/run guest-shell` builds what it needs and calls it.

use anyhow::{Context, Result, ensure};
use ccd_tests::guest::{Image, Machine, Recipe};
use ccd_tests::process::cluster::FOLDER_VARIABLE;
use clap::Parser;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// As long as a guest lives.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

#[derive(Debug, Parser)]
#[command(
    about = "Runs a command in a guest with two SCSI disks, seen through two initiators",
    after_help = "In the guest, /dev/shared/alpha/{primary,secondary}, /dev/shared/beta/… and /dev/shared/stranger/… are the same two \
                  disks, through one initiator each. With --paths 2 there are …/primary.1, …/primary.2 and so on, the paths of a multipath map.\n\n\
                  guest-shell 'sg_persist --in --read-keys /dev/shared/alpha/primary'\n\
                  guest-shell --script try.sh"
)]
struct Line {
    /// A shell script on this machine, run in the guest instead of a command.
    #[arg(long, conflicts_with = "command")]
    script: Option<PathBuf>,
    /// Ways from each initiator to each disk.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    paths: u8,
    /// Files of this machine that are put into the guest's /root.
    #[arg(long)]
    put: Vec<PathBuf>,
    /// No target and no disks: nothing but the booted guest.
    #[arg(long)]
    bare: bool,
    /// What a shell in the guest is to run.
    command: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let line = Line::parse();
    let script = match &line.script {
        Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
        None => line.command.join(" "),
    };
    ensure!(
        !script.trim().is_empty(),
        "give a command, or --script FILE; see --help"
    );
    let base = std::env::var_os(FOLDER_VARIABLE).map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::Builder::new().prefix("ccd-guest-").tempdir_in(base)?;
    let started = Instant::now();
    let image = Image::build(folder.path());
    let recipe = Recipe {
        name: "shell",
        memory_mib: 768,
        disks: Vec::new(),
        cards: Vec::new(),
    };
    let guest = Machine::start(recipe, &image, folder.path(), folder.path());
    guest.wait_for_boot(0);
    eprintln!(
        "booted {} after {} ms",
        guest.kernel(),
        started.elapsed().as_millis()
    );
    for path in &line.put {
        let content = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let name = path.file_name().context("it has no name")?.to_string_lossy();
        guest.put(&format!("/root/{name}"), &content);
    }
    if !line.bare {
        let ports = if line.paths == 2 { "3260 3261" } else { "3260" };
        let made = guest.sh(&format!(
            "export CCD_PATHS={}; target-up /run/primary.disk /run/secondary.disk && \
             for node in alpha beta stranger; do disks-login $node 127.0.0.1 {ports} || exit; done",
            line.paths
        ));
        eprint!("{}{}", made.out, made.err);
        ensure!(
            made.code == 0,
            "the disks could not be made: exit code {}",
            made.code
        );
        eprintln!("disks after {} ms", started.elapsed().as_millis());
    }
    guest.put("/root/script", &script);
    let job = guest.start_job(&["sh", "-c", "cd /root; exec sh script 2>&1"], None);
    let mut shown = 0;
    let code = loop {
        let ended = job.wait_for_end(Duration::from_millis(100));
        for (_, text) in job.lines(shown) {
            println!("{text}");
            shown += 1;
        }
        std::io::stdout().flush()?;
        if let Some(code) = ended {
            break code;
        }
        ensure!(
            started.elapsed() < PATIENCE,
            "it takes longer than {} s",
            PATIENCE.as_secs()
        );
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
