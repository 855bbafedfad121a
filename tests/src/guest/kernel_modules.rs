//! Which modules of the unpacked kernel package go into the image: those that are wanted, and what they depend on.
//!
//! The package comes without `modules.dep`, which its installation would make. Each module says in its `.modinfo` what
//! it depends on, so the file is made here, for busybox's modprobe.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of one kernel, by name.
#[derive(Debug)]
pub struct KernelModules {
    /// `lib/modules/RELEASE`
    folder: PathBuf,
    paths: BTreeMap<String, PathBuf>,
}

/// A module to be packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Below `lib/modules/RELEASE`.
    pub path: PathBuf,
    pub content: Vec<u8>,
}

impl KernelModules {
    /// # Panics
    /// When the folder cannot be read.
    pub fn find(folder: &Path) -> Self {
        let mut paths = BTreeMap::new();
        let mut folders = vec![folder.join("kernel")];
        while let Some(next) = folders.pop() {
            let entries = fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display()));
            for entry in entries {
                let path = entry.expect("a folder can be read").path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Some(name) = name_of(&path) {
                    paths.insert(name, path);
                }
            }
        }
        Self {
            folder: folder.to_owned(),
            paths,
        }
    }

    /// The modules of these names with all they depend on, and the lines of `modules.dep` for them. Names that are no modules
    /// (built in, or not made for this kernel) are left out.
    ///
    /// # Panics
    /// When a module cannot be read.
    pub fn with_dependencies(&self, wanted: &[&str]) -> (Vec<Module>, String) {
        let mut todo: Vec<String> = wanted.iter().map(|name| name.replace('-', "_")).collect();
        let mut depends: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut modules = Vec::new();
        while let Some(name) = todo.pop() {
            let Some(path) = self.paths.get(&name) else {
                continue;
            };
            if depends.contains_key(&name) {
                continue;
            }
            let content = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let needs = depends_of(&content);
            todo.extend(needs.iter().cloned());
            depends.insert(name, needs);
            modules.push(Module {
                path: self.relative(path),
                content,
            });
        }
        let lines = depends.keys().map(|name| self.line(name, &depends)).collect();
        (modules, lines)
    }

    /// `module: what it needs, and what that needs, the first to be loaded last`
    fn line(&self, name: &str, depends: &BTreeMap<String, Vec<String>>) -> String {
        let mut order = Vec::new();
        self.needed_by(name, depends, &mut BTreeSet::new(), &mut order);
        order.pop();
        let needed: String = order
            .iter()
            .rev()
            .map(|needed| format!(" {}", self.relative(&self.paths[needed]).display()))
            .collect();
        format!("{}:{needed}\n", self.relative(&self.paths[name]).display())
    }

    fn needed_by(
        &self,
        name: &str,
        depends: &BTreeMap<String, Vec<String>>,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<String>,
    ) {
        if !seen.insert(name.to_owned()) {
            return;
        }
        for needed in depends.get(name).into_iter().flatten() {
            self.needed_by(needed, depends, seen, order);
        }
        if self.paths.contains_key(name) {
            order.push(name.to_owned());
        }
    }

    fn relative(&self, path: &Path) -> PathBuf {
        let path = path.strip_prefix(&self.folder).expect("it was found there");
        path.to_owned()
    }
}

/// `dm-flakey.ko` → `dm_flakey`
fn name_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(".ko")?;
    Some(name.replace('-', "_"))
}

/// The names in `depends=…` of the module's `.modinfo`.
fn depends_of(content: &[u8]) -> Vec<String> {
    const TAG: &[u8] = b"\0depends=";
    let Some(at) = content.windows(TAG.len()).position(|bytes| bytes == TAG) else {
        return Vec::new();
    };
    let rest = &content[at + TAG.len()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    String::from_utf8_lossy(&rest[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::KernelModules;
    use std::fs;

    #[test]
    fn what_a_module_needs_is_packed_and_loaded_before_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let drivers = folder.path().join("kernel/drivers");
        fs::create_dir_all(&drivers).expect("ours");
        for (file, needs) in [
            ("top-one.ko", "middle"),
            ("middle.ko", "low,built-in"),
            ("low.ko", ""),
            ("other.ko", ""),
        ] {
            let info = format!("ELF\0license=GPL\0depends={needs}\0name=x\0");
            fs::write(drivers.join(file), info).expect("ours");
        }
        let (modules, lines) =
            KernelModules::find(folder.path()).with_dependencies(&["top_one", "not-there"]);
        assert_eq!(modules.len(), 3);
        assert_eq!(
            lines,
            "kernel/drivers/low.ko:\n\
             kernel/drivers/middle.ko: kernel/drivers/low.ko\n\
             kernel/drivers/top-one.ko: kernel/drivers/middle.ko kernel/drivers/low.ko\n"
        );
    }
}
