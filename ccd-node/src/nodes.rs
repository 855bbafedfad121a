//! The init database on this node's disk while the nodes of the cluster change: the new text is stored beside the old one,
//! and takes its place once it was decided.
//!
//! ```text
//! stage   init.ccd.next is durable                       a power cut: it stays, and says nothing by itself
//! adopt   init.ccd.next becomes init.ccd, one rename     before it: the next start finds both, and the protocol adopts it
//! ```
//!
//! Called by the event loop, and by the start for what an earlier run left. Always holds: `init.ccd` is whole.

use crate::daemon::Staged;
use crate::outlet::Outlet;
use ccd_client::Places;
use ccd_client::files::{read_text, write_whole};
use ccd_core::init::{ClusterInit, INIT_BYTES_MAX, InitFile};
use std::fs::{self, File};
use std::io;

const MODE: u32 = 0o644;

/// Stores it on a thread of its own, and says so when it is durable.
pub fn stage(places: &Places, init: InitFile, done: Outlet<Staged>) {
    let path = places.init_next_path();
    tokio::task::spawn_blocking(move || {
        let result = write_whole(&path, init.text.as_bytes(), MODE)
            .map_err(|error| format!("{} cannot be written: {error}", path.display()));
        // The daemon may be stopping; then nobody counts on it.
        let _ = done.blocking_send(Staged {
            digest: init.digest,
            result,
        });
    });
}

/// Lets it take the place of the init database.
///
/// # Errors
/// When the file system refuses; the next start tries again.
pub fn adopt(places: &Places, init: &InitFile) -> io::Result<()> {
    let (next, path) = (places.init_next_path(), places.init_path());
    let staged = read_text(&next, INIT_BYTES_MAX as u64).ok();
    if staged.is_none_or(|text| text != init.text) {
        return write_whole(&path, init.text.as_bytes(), MODE);
    }
    fs::rename(&next, &path)?;
    File::open(&places.etc)?.sync_all()
}

/// What an earlier run has stored and not adopted.
pub fn left_over(places: &Places, init: &ClusterInit) -> Option<InitFile> {
    let path = places.init_next_path();
    let text = match read_text(&path, INIT_BYTES_MAX as u64) {
        Ok(text) => text,
        Err(_) if !path.exists() => return None,
        Err(error) => {
            tracing::warn!("{error}: left alone");
            return None;
        }
    };
    match InitFile::parse(&text) {
        Ok(staged) if staged.cluster == init.id() => Some(staged),
        Ok(_) => {
            tracing::warn!(path = %path.display(), "it is of another cluster: left alone");
            None
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), "{error}: left alone");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outlet::{self, Bell};

    const TEXT: &str = "CLUSTER:c:0123456789abcdef0123456789abcdef\nNODE:0:a\nADDRESS:a:10.0.0.1:\n";

    fn places(folder: &std::path::Path) -> Places {
        Places {
            etc: folder.to_owned(),
            state: folder.to_owned(),
            run: folder.to_owned(),
        }
    }

    #[test]
    fn what_was_staged_is_found_at_the_next_start_and_takes_the_place_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let old = InitFile::parse(TEXT).unwrap();
        let new = InitFile::parse(&TEXT.replace("10.0.0.1", "10.0.0.2")).unwrap();
        fs::write(places.init_path(), TEXT).unwrap();
        assert!(left_over(&places, &old.cluster_init()).is_none());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (done, mut inlet) = outlet::channel(1, &Bell::default());
        runtime.block_on(async {
            stage(&places, new.clone(), done);
            let staged = inlet.recv().await.unwrap();
            assert_eq!((staged.digest, staged.result), (new.digest, Ok(())));
        });
        assert_eq!(left_over(&places, &old.cluster_init()), Some(new.clone()));
        assert_eq!(
            fs::read_to_string(places.init_path()).unwrap(),
            TEXT,
            "nothing has changed yet"
        );
        adopt(&places, &new).unwrap();
        assert_eq!(fs::read_to_string(places.init_path()).unwrap(), new.text);
        assert!(left_over(&places, &new.cluster_init()).is_none());
        // Without the staged file, or with another, the text itself is written.
        adopt(&places, &old).unwrap();
        assert_eq!(fs::read_to_string(places.init_path()).unwrap(), TEXT);
    }

    #[test]
    fn what_is_damaged_or_of_another_cluster_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let init = InitFile::parse(TEXT).unwrap().cluster_init();
        for text in ["no rows", &TEXT.replace("012345", "543210")] {
            fs::write(places.init_next_path(), text).unwrap();
            assert!(left_over(&places, &init).is_none());
            assert!(places.init_next_path().exists());
        }
    }
}
