//! The files in `/etc/ccd` and the state folder, which can change while the daemon runs. A thread looks at them every few seconds,
//! because a file system may hang; the event loop takes what was found last, and asks no file system itself.

use crate::copy_watch::CopyWatch;
use crate::file_id::{FileId, OpenFile};
use crate::locks::StateLock;
use crate::losses;
use ccd_client::error::AuthkeyFlaw;
use ccd_client::files::{AUTHKEY_BYTES_MAX, Authkeys, read_init, read_text, this_node};
use ccd_client::{CcdError, Places};
use ccd_core::ids::NodeId;
use ccd_core::init::ClusterInit;
use ccd_core::problem::{Cause, Problem};
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

/// A state folder with less room than this is full: history, checkpoints and decision records need more.
const ROOM_BYTES_MIN: u64 = 4 << 20;

/// A look that takes longer does not end: the file system hangs.
const LOOK_PATIENCE: Duration = Duration::from_secs(30);

/// What this run uses. Under the same names there may be something else by now.
#[derive(Clone, Debug)]
pub struct InUse {
    me: NodeId,
    /// This node's name in the init database that is in use.
    name: String,
    /// The option that said so; without it the node file did.
    node: Option<String>,
    local_copy: OpenFile,
}

impl InUse {
    pub fn new(init: &ClusterInit, me: NodeId, node: Option<String>, local_copy: OpenFile) -> Self {
        let name = init.node(me).map(|node| node.name.clone()).unwrap_or_default();
        Self {
            me,
            name,
            node,
            local_copy,
        }
    }
}

/// What was found last.
#[derive(Clone, Debug)]
pub struct Surroundings {
    seen: Arc<Mutex<Option<Seen>>>,
    /// Held for as long as the daemon lives.
    _lock: Option<Arc<Mutex<StateLock>>>,
    /// When what is in use was last taken from the files: an earlier look says nothing about it.
    changed: Instant,
}

#[derive(Clone, Debug)]
struct Seen {
    begun: Instant,
    /// Digest of the init database on the disk, or what is wrong with the file.
    init: Result<[u8; 32], String>,
    /// Names of the keys in the file, or what is wrong with it.
    authkeys: Result<String, KeyFault>,
    others: Vec<Problem>,
}

/// What is wrong with the authkey file, and the next step.
#[derive(Clone, Debug)]
struct KeyFault {
    text: String,
    next: String,
}

impl KeyFault {
    /// The mode is told of before the content is looked at.
    fn new(path: &Path, error: &CcdError) -> Self {
        let is_only_open = matches!(
            error,
            CcdError::Authkey {
                why: AuthkeyFlaw::Open { .. },
                ..
            }
        ) && read_text(path, AUTHKEY_BYTES_MAX)
            .is_ok_and(|text| Authkeys::parse(&text).is_ok());
        let shown = path.display();
        Self {
            text: error.to_string(),
            next: if is_only_open {
                format!("chmod 400 {shown}")
            } else {
                format!("copy {shown} from another node")
            },
        }
    }
}

impl Surroundings {
    /// Starts to look.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn watch(places: &Places, in_use: InUse, lock: StateLock) -> io::Result<Self> {
        let copy = CopyWatch::start(places.local_copy_path(), in_use.local_copy.clone())?;
        let lock = Arc::new(Mutex::new(lock));
        let surroundings = Self {
            seen: Arc::default(),
            _lock: Some(lock.clone()),
            changed: Instant::now(),
        };
        let seen = Arc::downgrade(&surroundings.seen);
        let places = places.clone();
        thread::Builder::new()
            .name("ccd-files".into())
            .spawn(move || look_again_and_again(&places, &in_use, &copy, &lock, &seen))?;
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
                    .next(format!("copy {init} from a node where it is right, or correct it, on each node alike")),
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
            Err(KeyFault { text: why, next }) => problems.push(
                Problem::new(
                    Cause::AuthkeyFile,
                    format!("{why}: ccdd runs with the keys that it read before, and could not start again"),
                )
                .next(next),
            ),
        }
        problems
    }
}

fn look_again_and_again(
    places: &Places,
    in_use: &InUse,
    copy: &CopyWatch,
    lock: &Mutex<StateLock>,
    seen: &Weak<Mutex<Option<Seen>>>,
) {
    // The loop has ended once nobody else holds it.
    while let Some(seen) = seen.upgrade() {
        let mut found = look(places, in_use, Instant::now());
        let lock = lock.lock().unwrap_or_else(PoisonError::into_inner).keep();
        found.others.extend(lock);
        found.others.extend(copy.problem());
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        drop(seen);
        thread::sleep(INTERVAL);
    }
}

fn look(places: &Places, in_use: &InUse, begun: Instant) -> Seen {
    let init = read_init(places);
    let keys = Authkeys::read(places).map(|keys| keys.ids().to_string());
    let mut others = folder_problems(&places.state, &places.branches_dir());
    others.extend(local_copy_problem(places, in_use));
    if let Ok(init) = &init {
        others.extend(node_file_problem(places, in_use, init));
    }
    Seen {
        begun,
        init: init.map(|init| init.digest()).map_err(|error| error.to_string()),
        authkeys: keys.map_err(|error| KeyFault::new(&places.authkey_path(), &error)),
        others,
    }
}

/// The next start would be as another node, or none at all. `init` is the init database on the disk.
fn node_file_problem(places: &Places, in_use: &InUse, init: &ClusterInit) -> Option<Problem> {
    let name = &in_use.name;
    let text = match this_node(places, init, in_use.node.as_deref()) {
        Ok(node) if node.id == in_use.me => return None,
        Ok(node) => format!(
            "{} says {}, and this ccdd runs as {name}: it would start as another node",
            in_use.node.as_ref().map_or_else(
                || places.node_path().display().to_string(),
                |_| "--node".to_owned()
            ),
            node.name
        ),
        Err(error) => format!("{error}: ccdd runs as {name}, and could not start again"),
    };
    Some(Problem::new(Cause::InitFile, text).next(format!("ccdadm setup --this {name}")))
}

/// A file without a name is freed when it is closed, with all that was written to it.
fn local_copy_problem(places: &Places, in_use: &InUse) -> Option<Problem> {
    let path = places.local_copy_path();
    let shown = path.display();
    let open = in_use.local_copy.id()?;
    let what = match fs::metadata(&path) {
        Ok(metadata) if FileId::by(&metadata) == open => return None,
        Ok(_) => "was replaced",
        Err(error) if error.kind() == io::ErrorKind::NotFound => "was removed",
        Err(error) => {
            let text = format!("the local copy {shown} cannot be looked at: {error}");
            return Some(Problem::new(Cause::LocalCopy, text).next(format!("ls -l {shown}; dmesg")));
        }
    };
    // It may have been closed, or opened anew, since.
    in_use.local_copy.id().filter(|now| *now == open)?;
    let text = format!(
        "the local copy {shown} {what} while ccdd has it open (inode {}): what is written there is lost when ccdd stops",
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
    use ccd_disk::{Access, RawDevice};
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
            _lock: None,
            changed: Instant::now(),
        };
        assert_eq!(
            surroundings.problems(&places, [1; 32], "k1"),
            [],
            "not looked yet"
        );
        let seen = |surroundings: &Surroundings, init, authkeys: Result<String, &str>| {
            let authkeys = authkeys.map_err(|text| KeyFault {
                text: text.into(),
                next: String::new(),
            });
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
            seen(&surroundings, Ok([1; 32]), Err("gone")),
            [Cause::AuthkeyFile]
        );
        // What was looked at before a change says nothing about what is in use since.
        surroundings.note_change();
        assert_eq!(surroundings.problems(&places, [1; 32], "k1"), []);
        let edited = seen(&surroundings, Ok([2; 32]), Ok("k1".into()));
        assert_eq!(edited, [Cause::InitFile]);
    }

    #[test]
    fn an_authkey_file_that_is_open_and_broken_is_to_be_copied_and_one_that_is_only_open_to_be_closed() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places {
            etc: folder.path().into(),
            state: folder.path().into(),
            run: folder.path().into(),
        };
        let path = places.authkey_path();
        let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
        for (content, mode, expected) in [
            (key, 0o400, None),
            (key, 0o644, Some("chmod 400")),
            ("no key\n", 0o644, Some("copy")),
            ("no key\n", 0o400, Some("copy")),
        ] {
            let _ = fs::remove_file(&path);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let seen = Seen {
                authkeys: (Authkeys::read(&places).map(|keys| keys.ids()))
                    .map_err(|error| KeyFault::new(&path, &error)),
                begun: Instant::now() + Duration::from_secs(1),
                init: Ok([1; 32]),
                others: Vec::new(),
            };
            let in_use = seen.authkeys.clone().unwrap_or_default();
            let surroundings = Surroundings {
                seen: Arc::new(Mutex::new(Some(seen))),
                _lock: None,
                changed: Instant::now(),
            };
            // What is found afterwards is another look's: the event loop asks no file system.
            fs::remove_file(&path).unwrap();
            let found = surroundings.problems(&places, [1; 32], &in_use);
            let next = found.first().map(|problem| problem.next.clone());
            assert_eq!(found.len(), usize::from(expected.is_some()), "{content} {mode:o}");
            assert!(
                next.clone()
                    .unwrap_or_default()
                    .starts_with(expected.unwrap_or_default()),
                "{next:?}"
            );
        }
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
                    ADDRESS:beta:127.0.0.2:2\n";
        let init = ClusterInit::parse(text).unwrap();
        let me = NodeId::new(0).unwrap();
        fs::write(places.node_path(), "alpha\n").unwrap();
        let copy = places.local_copy_path();
        fs::write(&copy, "x").unwrap();
        let open = || RawDevice::open(&copy, Access::ReadOnly).unwrap();
        let local_copy = OpenFile::default();
        let device = open();
        local_copy.note(&device);
        let in_use = InUse::new(&init, me, None, local_copy.clone());
        let texts_with = |in_use: &InUse, init: &ClusterInit| {
            let found = [
                node_file_problem(&places, in_use, init),
                local_copy_problem(&places, in_use),
            ];
            (found.into_iter().flatten())
                .map(|problem| problem.text)
                .collect::<Vec<_>>()
        };
        let texts = |in_use: &InUse| texts_with(in_use, &init);
        assert_eq!(texts(&in_use), [""; 0]);
        fs::write(places.node_path(), "beta\n").unwrap();
        fs::rename(&copy, folder.path().join("old")).unwrap();
        let found = texts(&in_use);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("says beta"), "{}", found[0]);
        assert!(found[1].contains("was removed"), "{}", found[1]);
        fs::remove_file(places.node_path()).unwrap();
        fs::write(&copy, "x").unwrap();
        let found = texts(&in_use);
        assert!(found[0].contains("could not start again"), "{}", found[0]);
        assert!(found[1].contains("was replaced"), "{}", found[1]);
        // After an error the replica is opened again: the file under the name is the one in use.
        drop(device);
        let by_option = InUse::new(&init, me, Some("alpha".into()), local_copy.clone());
        assert_eq!(texts(&by_option), [""; 0], "no file is open");
        let _device = open();
        local_copy.note(&_device);
        assert_eq!(texts(&by_option), [""; 0], "with --node no node file is needed");
        // Names were swapped in the file on the disk: this run keeps its own.
        let swapped = text
            .replace("alpha", "x")
            .replace("beta", "alpha")
            .replace(":x", ":beta");
        let swapped = ClusterInit::parse(&swapped).unwrap();
        let found = texts_with(&by_option, &swapped);
        assert!(
            found[0].contains("--node says alpha") && found[0].contains("runs as alpha"),
            "{found:?}"
        );
    }

    #[test]
    fn a_local_copy_that_cannot_be_looked_at_is_not_said_to_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        fs::create_dir(&state).unwrap();
        let places = Places {
            etc: folder.path().into(),
            state: state.clone(),
            run: folder.path().into(),
        };
        let init = "CLUSTER:c:000102030405060708090a0b0c0d0e0f\nNODE:0:alpha\nADDRESS:alpha:127.0.0.1:1\n";
        let init = ClusterInit::parse(init).unwrap();
        fs::write(places.local_copy_path(), "x").unwrap();
        let device = RawDevice::open(&places.local_copy_path(), Access::ReadOnly).unwrap();
        let local_copy = OpenFile::default();
        local_copy.note(&device);
        let in_use = InUse::new(&init, NodeId::new(0).unwrap(), None, local_copy);
        fs::rename(&state, folder.path().join("aside")).unwrap();
        fs::write(&state, "a file in the place of the folder").unwrap();
        let found = local_copy_problem(&places, &in_use).unwrap();
        assert!(found.text.contains("cannot be looked at"), "{}", found.text);
    }
}
