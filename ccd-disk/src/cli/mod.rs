//! The command line of `ccd-disk`: what an operator asks of one region, with no daemon needed.
//!
//! ```text
//! mod.rs         flags, exit codes, how a command ends
//! output.rs      tables and JSON on standard output; a closed pipe is no error
//! cluster.rs     what the init database says, if there is one
//! progress.rs    how far long work is
//! mkfs.rs show.rs check.rs dump.rs heartbeats.rs bench.rs probe.rs   one verb each
//! resync/        brings a device to what its twin holds
//! shared.rs      what must be right about a shared device before mkfs makes a region there
//! fence/         status, register, preempt, clear
//! ```

mod bench;
mod check;
mod cluster;
mod dump;
mod fence;
mod heartbeats;
mod mkfs;
mod output;
mod probe;
mod progress;
mod resync;
mod shared;
mod show;

use crate::device::{Access, Blocks, RawDevice};
use crate::error::RegionError;
use crate::region::handle::Handle;
use crate::region::label::Label;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use output::Output;
use progress::Watched;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Exit codes, the same for every program.
pub mod exit {
    pub const DONE: u8 = 0;
    /// Answered "no": a difference, something to repair.
    pub const NO: u8 = 1;
    pub const USAGE: u8 = 64;
    pub const BAD_DATA: u8 = 65;
    pub const NO_SUCH_FILE: u8 = 66;
    pub const CANNOT_CREATE: u8 = 73;
    pub const IO: u8 = 74;
    pub const NOT_PERMITTED: u8 = 77;
    pub const STALE: u8 = 103;
    pub const INTEGRITY: u8 = 104;
    pub const REFUSED: u8 = 107;
    pub const EXISTS: u8 = 108;
    pub const BUSY: u8 = 109;
    pub const FENCED: u8 = 110;
    /// Something was changed, and what came of it cannot be read back.
    pub const UNKNOWN: u8 = 111;
}

/// Make, show, check and measure one region, a shared device or a node's local copy, with no daemon
#[derive(Debug, Parser)]
#[command(name = "ccd-disk", version, max_term_width = 100, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ccd-disk mkfs --role primary /dev/disk/by-id/X   the primary of the cluster in /etc/ccd/init.ccd
  ccd-disk show /dev/ccd/prod/primary              whose it is, what each node has stored there
  ccd-disk check /var/lib/ccd/local.region         look for damage
  ccd-disk dump /dev/ccd/prod/primary              the database it holds, as text
  ccd-disk resync /dev/ccd/prod/secondary          fill it from the primary, with no daemon
  ccd-disk fence status                            who may write to the devices, who holds them

Exit codes:
  0 done, 1 answered \"no\", 64 usage, 65 not a region, 66 no such file, 73 cannot create,
  74 I/O error, 77 not permitted, 103 stale or diverged, 104 damaged, 107 refused for safety,
  108 exists, 109 busy, 110 fenced, 111 outcome unknown";

/// Flags that every verb takes.
#[derive(Debug, Args)]
struct Global {
    /// Folder with the init database
    #[arg(
        long,
        global = true,
        env = "CCD_ETC",
        default_value = "/etc/ccd",
        hide_env_values = true,
        value_name = "DIR",
        help_heading = "Folders"
    )]
    etc: PathBuf,
    /// Folder with the local copy
    #[arg(
        long,
        global = true,
        env = "CCD_STATE",
        default_value = "/var/lib/ccd",
        hide_env_values = true,
        value_name = "DIR",
        help_heading = "Folders"
    )]
    state: PathBuf,
    /// Folder with the sockets (taken for the sake of scripts; no verb needs it yet)
    #[arg(
        long,
        global = true,
        env = "CCD_RUN",
        default_value = "/run/ccd",
        hide_env_values = true,
        value_name = "DIR",
        help_heading = "Folders"
    )]
    run: PathBuf,
    /// Print JSON instead of a table
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,
    /// Do not ask before destroying or changing something
    #[arg(long, global = true, help_heading = "Everywhere")]
    yes: bool,
    /// Say what would be done, and do nothing
    #[arg(long, global = true, help_heading = "Everywhere")]
    dry_run: bool,
    /// Print no notes, only results and errors
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        help_heading = "Everywhere"
    )]
    quiet: bool,
    /// Print more about what is done
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mkfs(mkfs::MkfsArgs),
    Show(show::ShowArgs),
    Check(check::CheckArgs),
    Dump(dump::DumpArgs),
    Heartbeats(heartbeats::HeartbeatsArgs),
    Probe(probe::ProbeArgs),
    Fence(fence::FenceArgs),
    Resync(resync::ResyncArgs),
    Bench(bench::BenchArgs),
}

/// How a command fails: an exit code, and what to tell people.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn new(code: u8, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

impl From<RegionError> for Failure {
    fn from(error: RegionError) -> Self {
        let code = match &error {
            RegionError::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => exit::NO_SUCH_FILE,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => exit::NOT_PERMITTED,
                io::ErrorKind::AlreadyExists => exit::EXISTS,
                io::ErrorKind::InvalidInput => exit::BAD_DATA,
                io::ErrorKind::StorageFull => exit::CANNOT_CREATE,
                _ => exit::IO,
            },
            RegionError::Busy { .. } => exit::BUSY,
            RegionError::Fenced { .. } => exit::FENCED,
            RegionError::Poisoned { .. } | RegionError::VotedElsewhere { .. } => exit::IO,
            RegionError::NoRegion { .. }
            | RegionError::NoLocalCopy { .. }
            | RegionError::OtherCluster { .. }
            | RegionError::OtherRole { .. }
            | RegionError::NoArea { .. }
            | RegionError::TooNew { .. }
            | RegionError::TooOld { .. }
            | RegionError::NoBranches { .. } => exit::BAD_DATA,
            RegionError::Shrunk { .. } | RegionError::Damaged { .. } | RegionError::Overwritten { .. } => {
                exit::INTEGRITY
            }
            RegionError::NotNext { .. } => exit::STALE,
            RegionError::ImageTooLarge { .. }
            | RegionError::RecordTooLarge { .. }
            | RegionError::JournalFull { .. }
            | RegionError::BehindRefused { .. }
            | RegionError::Geometry { .. } => exit::CANNOT_CREATE,
        };
        Self {
            code,
            text: error.to_string(),
        }
    }
}

/// Standard output is gone or cannot be written.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(exit::DONE, String::new()),
            _ => Self::new(exit::IO, format!("CCD-2070 cannot write the output: {error}")),
        }
    }
}

/// Runs the program. `args` begin with the program's name, as `std::env::args_os` gives them.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    // A file that would grow beyond its limit (`ulimit -f`) is an error of the write, and not the silent end of the process.
    let mut signals = nix::sys::signal::SigSet::empty();
    signals.add(nix::sys::signal::Signal::SIGXFSZ);
    // It fails for no signal that exists.
    let _ = signals.thread_block();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(refused) => {
            if refused.use_stderr() && refused.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
                let text = refused.render().to_string();
                let text = text.strip_prefix("error: ").unwrap_or(&text);
                // There is nobody to tell if standard error is gone.
                let _ = writeln!(io::stderr(), "ccd-disk: CCD-2073 {}", text.trim_end());
            } else {
                let _ = refused.print();
            }
            return ExitCode::from(if refused.use_stderr() {
                exit::USAGE
            } else {
                exit::DONE
            });
        }
    };
    let mut output = Output::new(cli.global.json);
    let done = match &cli.command {
        Command::Mkfs(args) => mkfs::run(&cli.global, args, &mut output),
        Command::Show(args) => show::run(&cli.global, args, &mut output),
        Command::Check(args) => check::run(&cli.global, args, &mut output),
        Command::Dump(args) => dump::run(&cli.global, args, &mut output),
        Command::Heartbeats(args) => heartbeats::run(&cli.global, args, &mut output),
        Command::Probe(args) => probe::run(&cli.global, args, &mut output),
        Command::Fence(args) => fence::run(&cli.global, args, &mut output),
        Command::Resync(args) => resync::run(&cli.global, args, &mut output),
        Command::Bench(args) => bench::run(&cli.global, args, &mut output),
    };
    let done = done.and_then(|code| {
        output.flush()?;
        Ok(code)
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let _ = output.flush();
            if !failure.text.is_empty() {
                // There is nobody to tell if standard error is gone, too.
                let _ = writeln!(io::stderr(), "ccd-disk: {}", failure.text);
            }
            ExitCode::from(failure.code)
        }
    }
}

/// The definition of the command line, for completions and man pages.
pub fn command() -> clap::Command {
    Cli::command()
}

impl Global {
    /// How to open what will be written: a dry run only looks at it.
    fn access_to_write(&self) -> Access {
        if self.dry_run {
            Access::ReadOnly
        } else {
            Access::Exclusive
        }
    }

    /// Tells people something beside the result.
    fn note(&self, text: &str) {
        if !self.quiet {
            progress::clear_line();
            let _ = writeln!(io::stderr(), "ccd-disk: {text}");
        }
    }

    /// Asks before something is destroyed or changed; without a terminal only `--yes` will do.
    fn confirm(&self, what: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            return Err(Failure::new(
                exit::REFUSED,
                format!(
                    "CCD-2071 {what}; say --yes if that is meant (standard input is no terminal to ask on)"
                ),
            ));
        }
        progress::clear_line();
        let _ = write!(io::stderr(), "{what}. Type yes to go on: ");
        let mut answer = String::new();
        io::stdin()
            .read_line(&mut answer)
            .map_err(|error| Failure::new(exit::IO, error.to_string()))?;
        if answer.trim() == "yes" {
            return Ok(());
        }
        Err(Failure::new(
            exit::REFUSED,
            "CCD-2072 not confirmed; nothing was changed",
        ))
    }
}

/// Opens a device or file to be looked at, or to be written with nobody else.
fn open(path: &Path, access: Access) -> Result<RawDevice, RegionError> {
    let opened = match access {
        Access::Exclusive => RawDevice::open_when_free(path),
        Access::Shared | Access::ReadOnly => RawDevice::open(path, access),
    };
    opened.map_err(|source| RegionError::io("open", path.display().to_string(), source))
}

/// Opens a region to look at it, also while a daemon runs, and reads its superblocks.
fn open_region(global: &Global, path: &Path, access: Access) -> Result<(Handle, Label), Failure> {
    let device = open(path, access)?;
    if global.verbose {
        let how = if device.is_buffered() {
            "through the page cache"
        } else {
            "with O_DIRECT"
        };
        global.note(&format!(
            "{} has {} bytes, read {how}",
            path.display(),
            device.len_bytes()
        ));
    }
    let mut handle = Handle::new(Box::new(Watched::new(global, device)));
    let label = Label::read(&mut handle)?;
    for note in &label.notes {
        global.note(note);
    }
    Ok((handle, label))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        super::command().debug_assert();
    }

    #[test]
    fn what_stands_below_the_options_fits_a_terminal() {
        fn too_wide(command: &clap::Command) -> Vec<String> {
            let below = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let own = below.lines().filter(|line| line.chars().count() > 100);
            let own = own.map(|line| format!("{}: {line}", command.get_name()));
            own.chain(command.get_subcommands().flat_map(too_wide)).collect()
        }
        assert_eq!(too_wide(&super::command()), Vec::<String>::new());
    }
}
