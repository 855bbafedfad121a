//! The demo's folder and its two daemons. Whatever happens, the daemons end with it, each by its own process id.

use super::Trouble;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The programs that are links to this one.
const PROGRAMS: [&str; 4] = ["ccdd", "ccdadm", "ccdctl", "ccd-disk"];
/// How long a daemon may take to end when it is asked to.
const END_PATIENCE: Duration = Duration::from_secs(6);

/// The two nodes.
pub const NODES: [&str; 2] = ["alpha", "beta"];

pub struct Stage {
    folder: Option<TempDir>,
    path: PathBuf,
    daemons: [Option<Child>; 2],
    interrupted: Arc<AtomicBool>,
    keep: bool,
}

impl Stage {
    /// Makes the folder, with the programs in `bin`.
    pub fn set(interrupted: Arc<AtomicBool>, keep: bool) -> Result<Self, Trouble> {
        let folder = tempfile::Builder::new()
            .prefix("ccd-demo-")
            .tempdir()
            .map_err(Trouble::system("a temporary folder"))?;
        let path = folder.path().to_owned();
        let program = std::env::current_exe().map_err(Trouble::system("the path of this program"))?;
        let made = (|| -> io::Result<()> {
            fs::create_dir(path.join("bin"))?;
            for name in PROGRAMS {
                symlink(&program, path.join("bin").join(name))?;
            }
            for node in NODES {
                fs::create_dir(path.join(node))?;
            }
            Ok(())
        })();
        made.map_err(Trouble::system(path.display().to_string()))?;
        Ok(Self {
            folder: Some(folder),
            path,
            daemons: [None, None],
            interrupted,
            keep,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn keeps(&self) -> bool {
        self.keep
    }

    pub fn check_interrupt(&self) -> Result<(), Trouble> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Trouble::Interrupted);
        }
        Ok(())
    }

    /// A program of the demo, to be run inside its folder.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.path.join("bin").join(program));
        command.current_dir(&self.path).stdin(Stdio::null());
        for name in [
            "CCD_ETC",
            "CCD_STATE",
            "CCD_RUN",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
        ] {
            command.env_remove(name);
        }
        command
    }

    /// Starts a node's daemon; what it says goes to its log.
    pub fn start(&mut self, node: usize) -> Result<(), Trouble> {
        let name = NODES[node];
        let log_path = self.path.join(name).join("log");
        let log = fs::File::options().create(true).append(true).open(&log_path);
        let log = log.map_err(Trouble::system(log_path.display().to_string()))?;
        let mut command = self.command("ccdd");
        command
            .arg("run")
            .args(places(name))
            .stdout(Stdio::null())
            .stderr(log);
        // Out of the terminal's group: Ctrl-C is for the demo alone, which then ends them in order.
        command.process_group(0);
        if !self.keep {
            command.arg("--with-parent");
        }
        let child = command.spawn().map_err(Trouble::system("ccdd"))?;
        self.daemons[node] = Some(child);
        Ok(())
    }

    /// `kill -9`. Returns the process id it had.
    pub fn kill(&mut self, node: usize) -> Result<u32, Trouble> {
        let Some(mut child) = self.daemons[node].take() else {
            return Ok(0);
        };
        let pid = child.id();
        child.kill().map_err(Trouble::system("kill"))?;
        child.wait().map_err(Trouble::system("wait"))?;
        Ok(pid)
    }

    pub fn pid(&self, node: usize) -> Option<u32> {
        self.daemons[node].as_ref().map(Child::id)
    }

    /// Whether a daemon that was started has ended by itself.
    pub fn has_ended(&mut self, node: usize) -> Option<std::process::ExitStatus> {
        self.daemons[node]
            .as_mut()
            .and_then(|child| child.try_wait().ok().flatten())
    }

    /// The last lines of both logs, for a step that went wrong.
    pub fn print_logs(&self) {
        for node in NODES {
            let log = fs::read_to_string(self.path.join(node).join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("\nlast lines of {node}/log:");
            for line in &lines[lines.len().saturating_sub(15)..] {
                eprintln!("  {line}");
            }
        }
    }

    /// Leaves daemons and folder behind.
    pub fn keep(mut self) {
        if let Some(folder) = self.folder.take() {
            let _ = folder.keep();
        }
        for child in &mut self.daemons {
            *child = None;
        }
    }
}

impl Drop for Stage {
    /// Ends every daemon that still runs: asks, waits a little, insists.
    fn drop(&mut self) {
        let children: Vec<Child> = self.daemons.iter_mut().filter_map(Option::take).collect();
        for child in &children {
            // One that has ended is not there any more.
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        }
        let until = Instant::now() + END_PATIENCE;
        for mut child in children {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
            // Both only fail if it has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The three folders of a node, as every program takes them.
pub fn places(node: &str) -> [String; 6] {
    ["--etc", "--state", "--run"]
        .map(|flag| [flag.to_owned(), format!("{node}/{}", &flag[2..])])
        .concat()
        .try_into()
        .expect("three flags and three folders")
}

/// Two TCP ports that nobody has.
pub fn free_ports() -> Result<[u16; 2], Trouble> {
    let bind = || TcpListener::bind(("127.0.0.1", 0)).map_err(Trouble::system("a TCP port"));
    let sockets = [bind()?, bind()?];
    let port = |socket: &TcpListener| {
        let address = socket.local_addr().map_err(Trouble::system("a TCP port"))?;
        Ok(address.port())
    };
    Ok([port(&sockets[0])?, port(&sockets[1])?])
}
