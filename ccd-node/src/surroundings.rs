//! What lies around the daemon and can change below it: its files in `/etc/ccd`, its state folder. A thread looks at them every few
//! seconds, because a file system may hang; the event loop takes what was found last.

use crate::file_id::FileId;
use crate::losses;
use ccd_client::Places;
use ccd_client::files::{Authkeys, read_init, this_node};
use ccd_core::ids::NodeId;
use ccd_core::init::ClusterInit;
use ccd_core::problem::{Cause, Problem};
use ccd_disk::RegionWatch;
use nix::sys::statvfs::{FsFlags, statvfs};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(5);

/// Of the local copy, at each look: one of 64 MiB images is gone through in an hour or two.
const BLOCKS_A_LOOK: u32 = 64;

/// A state folder with less room than this is full: history, checkpoints and decision records need more.
const ROOM_BYTES_MIN: u64 = 4 << 20;

/// A look that takes longer does not end: the file system hangs.
const LOOK_PATIENCE: Duration = Duration::from_secs(30);

/// What this run was told at its start and has open. Under the same names there may be something else by now.
#[derive(Clone, Debug)]
pub struct Held {
    me: NodeId,
    /// The option that said so; without it the node file did.
    node: Option<String>,
    local_copy: Option<FileId>,
}

impl Held {
    /// Called when the local copy is open.
    pub fn now(places: &Places, me: NodeId, node: Option<&str>) -> Self {
        Self {
            me,
            node: node.map(str::to_owned),
            local_copy: FileId::of(&places.local_copy_path()),
        }
    }
}

fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0)
}

/// What was found last.
#[derive(Clone, Debug)]
pub struct Surroundings {
    seen: Arc<Mutex<Option<Seen>>>,
    /// When what is in use was last taken from the files: an earlier look says nothing about it.
    changed: Instant,
}

#[derive(Clone, Debug)]
struct Seen {
    begun: Instant,
    /// Digest of the init database on the disk, or what is wrong with the file.
    init: Result<[u8; 32], String>,
    /// Names of the keys in the file, or what is wrong with it.
    authkeys: Result<String, String>,
    others: Vec<Problem>,
}

impl Surroundings {
    /// Starts to look.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn watch(places: &Places, held: Held) -> io::Result<Self> {
        let surroundings = Self {
            seen: Arc::default(),
            changed: Instant::now(),
        };
        let seen = Arc::downgrade(&surroundings.seen);
        let places = places.clone();
        thread::Builder::new()
            .name("ccd-files".into())
            .spawn(move || look_again_and_again(&places, &held, &seen))?;
        Ok(surroundings)
    }

    /// What is in use has just been taken from the files.
    pub fn note_change(&mut self) {
        self.changed = Instant::now();
    }

    /// When the last look that has ended began.
    pub fn looked(&self) -> Option<Instant> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref().map(|seen| seen.begun)
    }

    /// What differs from what is in use.
    pub fn problems(&self, places: &Places, init_digest: [u8; 32], authkeys: &str) -> Vec<Problem> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let last = seen.as_ref().map_or(self.changed, |seen| seen.begun);
        if last.elapsed() > LOOK_PATIENCE {
            let (etc, state) = (places.etc.display(), places.state.display());
            let text = format!(
                "the files in {etc} and {state} could not be looked at for {} s: a file system does not answer",
                LOOK_PATIENCE.as_secs()
            );
            return vec![Problem::new(Cause::StateFolder, text).next(format!("ls -l {etc} {state}; dmesg"))];
        }
        let Some(seen) = seen.filter(|seen| seen.begun > self.changed) else {
            return Vec::new();
        };
        let (init, key) = (places.init_path(), places.authkey_path());
        let (init, key) = (init.display(), key.display());
        let mut problems = seen.others;
        match seen.init {
            Ok(digest) if digest == init_digest => {}
            Ok(_) => problems.push(
                Problem::new(
                    Cause::InitFile,
                    format!("{init} was edited and is not what is in use: it counts from the next start of ccdd on, on all nodes"),
                )
                .next("put the file back; or stop ccdd on all nodes, edit it there alike with ccdadm edit-init, and start them again"),
            ),
            Err(why) => problems.push(
                Problem::new(Cause::InitFile, format!("{why}: ccdd runs with what it read before, and could not start again"))
                    .next(format!("copy {init} from another node")),
            ),
        }
        match seen.authkeys {
            Ok(names) if names == authkeys => {}
            Ok(names) => problems.push(
                Problem::new(
                    Cause::AuthkeyFile,
                    format!("{key} holds {names}, and {authkeys} is in use"),
                )
                .next("systemctl reload ccdd"),
            ),
            Err(why) => problems.push(
                Problem::new(
                    Cause::AuthkeyFile,
                    format!("{why}: ccdd runs with the keys that it read before, and could not start again"),
                )
                .next(if is_open_to_others(&places.authkey_path()) {
                    format!("chmod 400 {key}")
                } else {
                    format!("copy {key} from another node")
                }),
            ),
        }
        problems
    }
}

fn look_again_and_again(places: &Places, held: &Held, seen: &Weak<Mutex<Option<Seen>>>) {
    let mut copy = CopyWatch::default();
    // The loop has ended once nobody else holds it.
    while let Some(seen) = seen.upgrade() {
        let mut found = look(places, held, Instant::now());
        found.others.extend(copy.problem(&places.local_copy_path(), held));
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        drop(seen);
        thread::sleep(INTERVAL);
    }
}

fn look(places: &Places, held: &Held, begun: Instant) -> Seen {
    let init = read_init(places);
    let keys = Authkeys::read(places).map(|keys| keys.ids().to_string());
    let mut others = folder_problems(&places.state, &places.branches_dir());
    others.extend(local_copy_problem(places, held));
    if let Ok(init) = &init {
        others.extend(node_file_problem(places, held, init));
    }
    Seen {
        begun,
        init: init.map(|init| init.digest()).map_err(|error| error.to_string()),
        authkeys: keys.map_err(|error| error.to_string()),
        others,
    }
}

/// Looks through the local copy, which nothing reads before the next start.
#[derive(Debug, Default)]
struct CopyWatch(Option<RegionWatch>);

impl CopyWatch {
    /// What another program has written into it, as far as it is the one that is open.
    fn problem(&mut self, path: &Path, held: &Held) -> Option<Problem> {
        let is_open = held.local_copy.is_some() && FileId::of(path) == held.local_copy;
        if !is_open {
            self.0 = None;
            return None;
        }
        let looked = match self.0.take() {
            Some(mut watch) => watch.look(BLOCKS_A_LOOK).map(|damage| (watch, damage)),
            None => RegionWatch::open(path).map(|watch| (watch, None)),
        };
        let text = match looked {
            Ok((watch, damage)) => {
                self.0 = Some(watch);
                format!("the local copy {} is damaged: {}", path.display(), damage?)
            }
            Err(error) => format!("the local copy would not be one at the next start: {error}"),
        };
        let next = "with another node serving: stop ccdd, move the local copy aside, and start ccdd: it takes a whole copy from there";
        Some(Problem::new(Cause::LocalCopy, text).next(next))
    }
}

/// The next start would be as another node, or none at all.
fn node_file_problem(places: &Places, held: &Held, init: &ClusterInit) -> Option<Problem> {
    let name = init.node(held.me)?.name.clone();
    let text = match this_node(places, init, held.node.as_deref()) {
        Ok(node) if node.id == held.me => return None,
        Ok(node) => format!(
            "{} says {}, and this ccdd runs as {name}: it would start as another node",
            places.node_path().display(),
            node.name
        ),
        Err(error) => format!("{error}: ccdd runs as {name}, and could not start again"),
    };
    Some(Problem::new(Cause::InitFile, text).next(format!("ccdadm setup --this {name}")))
}

/// What is written to a file that has no name any more is gone when it is closed.
fn local_copy_problem(places: &Places, held: &Held) -> Option<Problem> {
    let path = places.local_copy_path();
    let open = held.local_copy.filter(|_| FileId::of(&path) != held.local_copy)?;
    let what = if FileId::of(&path).is_some() {
        "was replaced"
    } else {
        "was removed"
    };
    let text = format!(
        "the local copy {} {what} while ccdd has it open (inode {}): what is written there is lost when ccdd stops",
        path.display(),
        open.inode
    );
    let next = "with another node serving, systemctl restart ccdd: it takes a whole copy from there";
    Some(Problem::new(Cause::LocalCopy, text).next(next))
}

fn folder_problems(state: &Path, branches: &Path) -> Vec<Problem> {
    let mut problems = Vec::new();
    let shown = state.display();
    let of = |text: String, next: String| Problem::new(Cause::StateFolder, text).next(next);
    match fs::metadata(state) {
        Err(error) => problems.push(of(
            format!("the state folder {shown} cannot be looked at: {error}"),
            format!("ls -ld {shown}"),
        )),
        Ok(metadata) => {
            let mode = metadata.mode() & 0o7777;
            let own = nix::unistd::geteuid().as_raw();
            if mode & 0o022 != 0 || metadata.uid() != own {
                problems.push(of(
                    format!(
                        "other users can replace what is in the state folder {shown} (mode {mode:04o}, owner {})",
                        metadata.uid()
                    ),
                    format!("chown {own} {shown}; chmod 700 {shown}"),
                ));
            }
        }
    }
    if let Ok(system) = statvfs(state) {
        let free_bytes = system.blocks_available().saturating_mul(system.fragment_size());
        if system.flags().contains(FsFlags::ST_RDONLY) {
            problems.push(of(
                format!("the file system of the state folder {shown} is read-only"),
                format!("dmesg, and mount -o remount,rw for the file system of {shown}"),
            ));
        } else if free_bytes < ROOM_BYTES_MIN {
            problems.push(of(
                format!(
                    "the file system of the state folder {shown} is full: {} KiB are left",
                    free_bytes >> 10
                ),
                format!("df -h {shown}"),
            ));
        }
    }
    problems.extend(losses::problems(branches));
    let is_branch = |entry: &fs::DirEntry| !losses::is_of_loss(&entry.path());
    let kept = fs::read_dir(branches).map_or(0, |entries| entries.flatten().filter(is_branch).count());
    if kept > 0 {
        let text = if kept == 1 {
            "a branch that lost is kept: it may hold updates that were acknowledged".to_owned()
        } else {
            format!("{kept} branches that lost are kept: they may hold updates that were acknowledged")
        };
        problems.push(Problem::new(Cause::BranchKept, text).next("ccdadm branches"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_state_folder_that_others_can_write_and_a_kept_branch_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let (state, branches) = (folder.path().join("state"), folder.path().join("state/branches"));
        fs::create_dir_all(&branches).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(folder_problems(&state, &branches), []);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(branches.join("7-306-abc"), b"x").unwrap();
        let found = folder_problems(&state, &branches);
        let causes: Vec<Cause> = found.iter().map(|problem| problem.cause).collect();
        assert_eq!(causes, [Cause::StateFolder, Cause::BranchKept]);
        assert!(found[0].text.contains("0777"), "{}", found[0].text);
        let gone = folder_problems(&folder.path().join("none"), &branches);
        assert!(gone[0].text.contains("No such file"), "{}", gone[0].text);
    }

    #[test]
    fn files_that_are_not_what_is_in_use_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places {
            etc: folder.path().into(),
            state: folder.path().into(),
            run: folder.path().into(),
        };
        let mut surroundings = Surroundings {
            seen: Arc::default(),
            changed: Instant::now(),
        };
        assert_eq!(
            surroundings.problems(&places, [1; 32], "k1"),
            [],
            "not looked yet"
        );
        let seen = |surroundings: &Surroundings, init, authkeys| {
            let seen = Seen {
                begun: Instant::now(),
                init,
                authkeys,
                others: Vec::new(),
            };
            *surroundings.seen.lock().unwrap() = Some(seen);
            let found = surroundings.problems(&places, [1; 32], "k1");
            found.into_iter().map(|problem| problem.cause).collect::<Vec<_>>()
        };
        assert_eq!(seen(&surroundings, Ok([1; 32]), Ok("k1".into())), []);
        assert_eq!(
            seen(&surroundings, Ok([2; 32]), Ok("k1".into())),
            [Cause::InitFile]
        );
        assert_eq!(
            seen(&surroundings, Err("gone".into()), Ok("k2".into())),
            [Cause::InitFile, Cause::AuthkeyFile]
        );
        assert_eq!(
            seen(&surroundings, Ok([1; 32]), Err("gone".into())),
            [Cause::AuthkeyFile]
        );
        // What was looked at before a change says nothing about what is in use since.
        surroundings.note_change();
        assert_eq!(surroundings.problems(&places, [1; 32], "k1"), []);
        let edited = seen(&surroundings, Ok([2; 32]), Ok("k1".into()));
        assert_eq!(edited, [Cause::InitFile]);
    }

    #[test]
    fn a_node_file_and_a_local_copy_that_became_something_else_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places {
            etc: folder.path().into(),
            state: folder.path().into(),
            run: folder.path().into(),
        };
        let text = "CLUSTER:c:000102030405060708090a0b0c0d0e0f\nNODE:0:alpha\nADDRESS:alpha:127.0.0.1:1\nNODE:1:beta\n\
                    ADDRESS:beta:127.0.0.1:2\n";
        let init = ClusterInit::parse(text).unwrap();
        let me = NodeId::new(0).unwrap();
        fs::write(places.node_path(), "alpha\n").unwrap();
        fs::write(places.local_copy_path(), "x").unwrap();
        let held = Held::now(&places, me, None);
        let causes = |held: &Held| {
            let found = [
                node_file_problem(&places, held, &init),
                local_copy_problem(&places, held),
            ];
            found
                .into_iter()
                .flatten()
                .map(|problem| (problem.cause, problem.text))
                .collect::<Vec<_>>()
        };
        assert_eq!(causes(&held), []);
        fs::write(places.node_path(), "beta\n").unwrap();
        fs::rename(places.local_copy_path(), folder.path().join("old")).unwrap();
        let found = causes(&held);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].1.contains("says beta"), "{}", found[0].1);
        assert!(found[1].1.contains("was removed"), "{}", found[1].1);
        fs::remove_file(places.node_path()).unwrap();
        fs::write(places.local_copy_path(), "x").unwrap();
        let found = causes(&held);
        assert!(found[0].1.contains("could not start again"), "{}", found[0].1);
        assert!(found[1].1.contains("was replaced"), "{}", found[1].1);
        // Whoever was told by an option needs no file.
        let told = Held::now(&places, me, Some("alpha"));
        assert_eq!(causes(&told), []);
    }
}
