//! A folder in which nothing runs: for what `ccdadm` does without a daemon.

use super::{Ran, run};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// Options of `setup` for a cluster on plain files.
pub const LEASE: [&str; 2] = ["--fencing", "lease"];

/// The folder of a node that is not started, and two plain files for devices.
pub struct Bench {
    pub folder: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["p", "s"] {
            fs::write(folder.path().join(name), "").expect("it is written");
        }
        Self { folder }
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
    pub fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("it is written");
        self.path(name).to_str().expect("UTF-8").to_owned()
    }
    pub fn ccdadm(&self, args: &[&str]) -> Ran {
        run("ccdadm", Some(self.folder.path()), args, "")
    }
    /// With a cluster of two nodes on two plain files, and `more`.
    pub fn setup(&self, more: &[&str]) -> Ran {
        let (p, s) = (self.path("p"), self.path("s"));
        let mut args = vec![
            "setup",
            "--cluster",
            "lab",
            "--node",
            "a=127.0.0.1:7001",
            "--node",
            "b=127.0.0.1",
        ];
        args.extend([
            "--primary",
            p.to_str().expect("UTF-8"),
            "--secondary",
            s.to_str().expect("UTF-8"),
        ]);
        args.extend(more);
        self.ccdadm(&args)
    }
}
