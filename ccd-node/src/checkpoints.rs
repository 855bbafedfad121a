//! Automatic checkpoints: every so often the copy that this node serves is saved as a file, and the oldest such file goes.
//!
//! Always holds: a thread of low priority does it, on a snapshot that nobody else waits for, one at a time; updates and
//! heartbeats wait for nothing of it. What failed is tried again when the next one is due.

use crate::history::be_nice;
use crate::outlet::{self, Bell, Outlet};
use ccd_client::Places;
use ccd_client::checkpoints::{automatic_name, list, path_of, rotate, save};
use ccd_core::database::{Database, FileOrigin};
use ccd_core::ids::Position;
use ccd_core::time::{Date, Time};
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;

/// A node that does not serve looks again after this time, if its interval is longer.
const RETRY: Duration = Duration::from_secs(10);

/// What came of one.
#[derive(Debug)]
pub struct Saved {
    position: Position,
    /// Its name, and those that went for it.
    outcome: Result<(String, Vec<String>), String>,
}

/// When the next one is due.
#[derive(Debug)]
pub struct Checkpoints {
    places: Places,
    every: Option<Duration>,
    keep: usize,
    origin: FileOrigin,
    next: Time,
    /// A snapshot was asked for, or is being saved.
    busy: bool,
    /// What the last one holds: the same is not saved again.
    saved: Option<Position>,
    outlet: Outlet<Saved>,
}

impl Checkpoints {
    /// The first is due when the last one of an earlier run is old enough. What comes of each comes through the channel.
    pub fn new(
        places: &Places,
        every: Option<Duration>,
        keep: u32,
        origin: FileOrigin,
        now: Time,
        today: Date,
        bell: &Bell,
    ) -> (Self, mpsc::Receiver<Saved>) {
        // One at a time, so there is always room for what came of it.
        let (outlet, inlet) = outlet::channel(1, bell);
        let age = age_of_last(&places.checkpoints_dir(), today);
        // A clock that was set back makes it no later than one interval.
        let wait = every.unwrap_or_default().saturating_sub(age);
        let checkpoints = Self {
            places: places.clone(),
            every,
            keep: keep as usize,
            origin,
            next: now + wait,
            busy: false,
            saved: None,
            outlet,
        };
        (checkpoints, inlet)
    }

    /// When a snapshot should be asked for.
    pub fn next_deadline(&self) -> Time {
        if self.busy || self.every.is_none() {
            Time::NEVER
        } else {
            self.next
        }
    }

    /// A snapshot is being asked for.
    pub fn asked(&mut self, now: Time) {
        self.busy = true;
        self.next = now + self.every.unwrap_or_default();
    }

    /// There is none: this node does not serve. It may soon.
    pub fn put_off(&mut self, now: Time) {
        self.busy = false;
        self.next = now + self.every.unwrap_or_default().min(RETRY);
    }

    /// Saves this snapshot, on a thread of its own, if it is not what was saved last.
    pub fn begin(&mut self, database: Database, today: Date) {
        let position = database.position();
        if self.saved == Some(position) {
            self.busy = false;
            return;
        }
        let (places, keep, outlet) = (self.places.clone(), self.keep, self.outlet.clone());
        let origin = self.origin.clone();
        let work = move || {
            be_nice();
            let outcome = write(&places, &database, &origin, keep, today);
            // The daemon may be gone.
            let _ = outlet.blocking_send(Saved { position, outcome });
        };
        if let Err(error) = std::thread::Builder::new()
            .name("ccd-checkpoint".into())
            .spawn(work)
        {
            tracing::warn!(%error, "no thread for the automatic checkpoint");
            self.busy = false;
        }
    }

    /// Takes what came of it, and says it in the log.
    pub fn end(&mut self, saved: Saved) {
        self.busy = false;
        match saved.outcome {
            Ok((name, dropped)) => {
                self.saved = Some(saved.position);
                let gone = if dropped.is_empty() {
                    String::new()
                } else {
                    format!("; dropped {}", dropped.join(", "))
                };
                tracing::info!(position = %saved.position, "automatic checkpoint {name}{gone}");
            }
            Err(why) => tracing::warn!(
                "no automatic checkpoint: {why}; check the space of the state folder, the next is tried when it is due"
            ),
        }
    }
}

fn age_of_last(folder: &Path, today: Date) -> Duration {
    let last = list(folder)
        .ok()
        .and_then(|all| all.into_iter().find(|one| one.is_automatic()));
    last.map_or(Duration::MAX, |last| {
        Duration::from_millis(today.0.saturating_sub(last.saved.0))
    })
}

fn write(
    places: &Places,
    database: &Database,
    origin: &FileOrigin,
    keep: usize,
    today: Date,
) -> Result<(String, Vec<String>), String> {
    let name = automatic_name(today);
    let path = path_of(places, &name)?;
    save(&path, database, origin).map_err(|error| format!("{}: {error}", path.display()))?;
    let folder = places.checkpoints_dir();
    let dropped = rotate(&folder, keep).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok((name, dropped))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::ids::ClusterId;

    fn origin() -> FileOrigin {
        FileOrigin {
            cluster: ClusterId([7; 16]),
            name: "prod".to_owned(),
        }
    }

    fn places(folder: &Path) -> Places {
        Places {
            etc: folder.into(),
            state: folder.into(),
            run: folder.into(),
        }
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn one_is_due_at_once_and_then_after_its_interval_and_the_same_is_not_saved_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        let places = places(folder.path());
        let start = Time::ZERO + HOUR;
        let today = Date(HOUR.as_millis() as u64);
        let (mut checkpoints, mut inlet) =
            Checkpoints::new(&places, Some(HOUR), 2, origin(), start, today, &Bell::default());
        assert_eq!(checkpoints.next_deadline(), start);
        checkpoints.asked(start);
        assert_eq!(checkpoints.next_deadline(), Time::NEVER);
        checkpoints.begin(Database::default(), today);
        checkpoints.end(inlet.blocking_recv().expect("it was saved"));
        assert_eq!(checkpoints.next_deadline(), start + HOUR);
        assert_eq!(list(&places.checkpoints_dir()).expect("it is there").len(), 1);
        checkpoints.asked(start + HOUR);
        checkpoints.begin(Database::default(), Date(today.0 + 1_000));
        assert_eq!(checkpoints.next_deadline(), start + HOUR * 2);
        checkpoints.asked(start + HOUR * 2);
        checkpoints.put_off(start + HOUR * 2);
        assert_eq!(checkpoints.next_deadline(), start + HOUR * 2 + RETRY);
        assert_eq!(list(&places.checkpoints_dir()).expect("it is there").len(), 1);
    }

    #[test]
    fn without_an_interval_there_is_none_and_one_of_an_earlier_run_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let places = places(folder.path());
        let (none, _inlet) =
            Checkpoints::new(&places, None, 2, origin(), Time::ZERO, Date(0), &Bell::default());
        assert_eq!(none.next_deadline(), Time::NEVER);
        let path = path_of(&places, &automatic_name(Date(0))).expect("it is a name");
        save(&path, &Database::default(), &origin()).expect("it is saved");
        let saved = list(&places.checkpoints_dir()).expect("it is there")[0].saved;
        let later = Date(saved.0 + HOUR.as_millis() as u64 / 4);
        let (checkpoints, _inlet) = Checkpoints::new(
            &places,
            Some(HOUR),
            2,
            origin(),
            Time::ZERO,
            later,
            &Bell::default(),
        );
        assert_eq!(checkpoints.next_deadline(), Time::ZERO + HOUR / 4 * 3);
        // The clock was set back.
        let (checkpoints, _inlet) = Checkpoints::new(
            &places,
            Some(HOUR),
            2,
            origin(),
            Time::ZERO,
            Date(0),
            &Bell::default(),
        );
        assert_eq!(checkpoints.next_deadline(), Time::ZERO + HOUR);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_tried_again_when_the_next_is_due() {
        let folder = tempfile::tempdir().expect("a folder");
        let places = places(folder.path());
        std::fs::write(places.checkpoints_dir(), "in the way").expect("the folder is ours");
        let (mut checkpoints, mut inlet) = Checkpoints::new(
            &places,
            Some(HOUR),
            2,
            origin(),
            Time::ZERO,
            Date(0),
            &Bell::default(),
        );
        checkpoints.asked(Time::ZERO);
        checkpoints.begin(Database::default(), Date(0));
        let saved = inlet.blocking_recv().expect("it was tried");
        assert!(saved.outcome.is_err());
        checkpoints.end(saved);
        assert_eq!(checkpoints.next_deadline(), Time::ZERO + HOUR);
    }
}
