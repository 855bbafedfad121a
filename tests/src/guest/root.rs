//! Where things for guests are found: the unpacked packages, the programs of this build, the machine's own programs.
//!
//! `tests/run` downloads Debian's cloud kernel, open-iscsi and some more and unpacks them below `target/guest/root`; they are
//! not installed. The rest (QEMU, nbdkit, …) it installs.

use crate::process::programs::PROGRAMS_VARIABLE;
use std::fs;
use std::path::{Path, PathBuf};

/// Names the folder with the unpacked packages, if it is not `target/guest/root`.
pub const ROOT_VARIABLE: &str = "CCD_GUEST_ROOT";

/// Where libraries are in Debian's packages, and in the guest.
pub const LIBRARIES: [&str; 4] = [
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib",
    "lib",
];

/// `target`, in which this test was built.
///
/// # Panics
/// When this program is somewhere else.
pub fn target_folder() -> PathBuf {
    let profile = profile_folder();
    profile.parent().expect("it is target/PROFILE").to_owned()
}

/// A program of this build; see [`PROGRAMS_VARIABLE`].
///
/// # Panics
/// When it has not been built.
pub fn built(name: &str) -> PathBuf {
    let folder = std::env::var_os(PROGRAMS_VARIABLE).map_or_else(profile_folder, PathBuf::from);
    // The agent is this package's, wherever the programs under test come from.
    for path in [folder.join(name), profile_folder().join(name)] {
        if path.exists() {
            return path;
        }
    }
    panic!(
        "there is no {name} in {}: cargo build --release --workspace --bins",
        folder.display()
    );
}

/// `target/PROFILE`: tests are in its folder `deps`.
fn profile_folder() -> PathBuf {
    let program = std::env::current_exe().expect("a process has a program");
    let folder = program.parent().expect("it is in a folder");
    if folder.ends_with("deps") {
        folder.parent().expect("which is in target/PROFILE").to_owned()
    } else {
        folder.to_owned()
    }
}

/// The unpacked packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    folder: PathBuf,
}

impl Root {
    /// # Panics
    /// When it is not there.
    pub fn find() -> Self {
        let folder =
            std::env::var_os(ROOT_VARIABLE).map_or_else(|| target_folder().join("guest/root"), PathBuf::from);
        assert!(
            folder.join("boot").is_dir(),
            "{} has no kernel for guests: tests/run guest downloads it",
            folder.display()
        );
        Self { folder }
    }

    /// The kernel and its release.
    ///
    /// # Panics
    /// When there is none.
    pub fn kernel(&self) -> (PathBuf, String) {
        let boot = self.folder.join("boot");
        let entries = fs::read_dir(&boot).unwrap_or_else(|error| panic!("{}: {error}", boot.display()));
        let kernel = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("vmlinuz-"))
            .max()
            .unwrap_or_else(|| panic!("there is no kernel in {}", boot.display()));
        let release = kernel.trim_start_matches("vmlinuz-").to_owned();
        (boot.join(kernel), release)
    }

    pub fn modules(&self, release: &str) -> PathBuf {
        self.folder.join("lib/modules").join(release)
    }

    /// A file of the packages, or else of this machine, by its path in either.
    pub fn file(&self, path: &str) -> Option<PathBuf> {
        let path = path.trim_start_matches('/');
        [self.folder.as_path(), Path::new("/")]
            .into_iter()
            .map(|root| within(root, path))
            .find(|path| path.exists())
    }

    /// A program of the packages, or else of this machine.
    ///
    /// # Panics
    /// When there is none.
    pub fn program(&self, name: &str) -> PathBuf {
        let found = ["bin", "sbin", "usr/bin", "usr/sbin", "lib/systemd", "lib/udev"]
            .into_iter()
            .find_map(|folder| self.file(&format!("{folder}/{name}")));
        found.unwrap_or_else(|| {
            panic!("guests need {name}, which is not installed: tests/run guest installs what they need")
        })
    }

    /// For the dynamic linker. The service manager's own library comes first from where the manager is from.
    pub fn library_path(&self) -> String {
        let folders: Vec<String> = LIBRARIES
            .into_iter()
            .chain(["usr/lib/x86_64-linux-gnu/systemd", "lib/x86_64-linux-gnu/systemd"])
            .map(|folder| self.folder.join(folder).display().to_string())
            .collect();
        folders.join(":")
    }
}

/// Where a path of an unpacked system is. A link of it that begins with / means that system's root, not this machine's.
fn within(root: &Path, path: &str) -> PathBuf {
    let path = root.join(path);
    match fs::read_link(&path) {
        Ok(target) if target.is_absolute() => root.join(target.strip_prefix("/").unwrap_or(&target)),
        _ => path,
    }
}
