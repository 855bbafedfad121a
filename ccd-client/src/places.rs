//! Where things are: the three folders, and every file in them. One definition for all programs.

use std::path::PathBuf;

const ETC: &str = "/etc/ccd";
const STATE: &str = "/var/lib/ccd";
const RUN: &str = "/run/ccd";

/// The three folders. Several instances can live on one machine by giving each its own.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Places {
    /// Init database, key and node number
    #[arg(
        long,
        value_name = "DIR",
        env = "CCD_ETC",
        hide_env_values = true,
        default_value = ETC,
        global = true,
        help_heading = "Folders"
    )]
    pub etc: PathBuf,
    /// Local copy, kept branches, decision records
    #[arg(
        long,
        value_name = "DIR",
        env = "CCD_STATE",
        hide_env_values = true,
        default_value = STATE,
        global = true,
        help_heading = "Folders"
    )]
    pub state: PathBuf,
    /// Sockets of the running daemon
    #[arg(
        long,
        value_name = "DIR",
        env = "CCD_RUN",
        hide_env_values = true,
        default_value = RUN,
        global = true,
        help_heading = "Folders"
    )]
    pub run: PathBuf,
}

impl Places {
    /// The folders of an ordinary installation.
    pub fn standard() -> Self {
        Self {
            etc: ETC.into(),
            state: STATE.into(),
            run: RUN.into(),
        }
    }

    /// From the environment or the standard folders, for programs that link the library.
    pub fn from_env() -> Self {
        let folder = |name, standard| std::env::var_os(name).map_or(standard, PathBuf::from);
        let standard = Self::standard();
        Self {
            etc: folder("CCD_ETC", standard.etc),
            state: folder("CCD_STATE", standard.state),
            run: folder("CCD_RUN", standard.run),
        }
    }

    pub fn init_path(&self) -> PathBuf {
        self.etc.join("init.ccd")
    }
    /// Locked by whoever edits the init database; gone afterwards.
    pub fn init_lock_path(&self) -> PathBuf {
        self.etc.join(".init.ccd.lock")
    }
    /// An init database with other nodes, until it is decided on.
    pub fn init_next_path(&self) -> PathBuf {
        self.etc.join("init.ccd.next")
    }
    pub fn authkey_path(&self) -> PathBuf {
        self.etc.join("authkey")
    }
    /// This node's number or name.
    pub fn node_path(&self) -> PathBuf {
        self.etc.join("node")
    }
    /// Synchronization commands.
    pub fn sync_dir(&self) -> PathBuf {
        self.etc.join("sync.d")
    }
    /// The node's own copy: a region on a file.
    pub fn local_copy_path(&self) -> PathBuf {
        self.state.join("local.region")
    }
    /// Branches that lost.
    pub fn branches_dir(&self) -> PathBuf {
        self.state.join("branches")
    }
    /// Checkpoints with a name, and automatic ones.
    pub fn checkpoints_dir(&self) -> PathBuf {
        self.state.join("checkpoints")
    }
    /// Decision records.
    pub fn decisions_path(&self) -> PathBuf {
        self.state.join("decisions.log")
    }
    /// The history of updates.
    pub fn history_dir(&self) -> PathBuf {
        self.state.join("history")
    }
    /// Locked by the daemon that has the state folder; holds the number of its process.
    pub fn state_lock_path(&self) -> PathBuf {
        self.state.join("lock")
    }
    /// Locked by the daemon that has the run folder.
    pub fn run_lock_path(&self) -> PathBuf {
        self.run.join("ccdd.lock")
    }
    /// Why the daemon did not start when it last tried; gone once it has.
    pub fn refusal_path(&self) -> PathBuf {
        self.run.join("refusal")
    }
    /// For clients.
    pub fn client_socket(&self) -> PathBuf {
        self.run.join("ccdd.sock")
    }
    /// For ccdctl.
    pub fn control_socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }
}
