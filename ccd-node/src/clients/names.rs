//! Names in ACCESS rows, looked up on a thread of their own: a name service may answer late, or not before the network is up.
//! Nothing waits for it longer than a moment. A row whose name is not known yet grants nothing until it is, and is looked up
//! again with a growing pause.
//!
//! Called when the daemon starts, and by `serve.rs`.

use super::access::AccessRules;
use ccd_core::init::AccessInit;
use std::io;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// Clients wait for the names so long, and no longer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Between two lookups; each pause is twice the one before, up to the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LONGEST: Duration = Duration::from_secs(60);

/// A lookup under way.
#[derive(Debug)]
pub struct NameLookup {
    rows: Vec<AccessInit>,
    answer: oneshot::Receiver<AccessRules>,
}

impl NameLookup {
    /// Starts to look the names up.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn begin(rows: Vec<AccessInit>) -> io::Result<Self> {
        let (done, answer) = oneshot::channel();
        let names = rows.clone();
        let look = move || {
            // The daemon may have ended.
            let _ = done.send(AccessRules::new(&names));
        };
        std::thread::Builder::new().name("ccd-names".into()).spawn(look)?;
        Ok(Self { rows, answer })
    }

    /// The rules, as far as the names are known after a moment, and the lookup if it goes on.
    pub async fn first(mut self) -> (AccessRules, LateNames) {
        match timeout(PATIENCE, &mut self.answer).await {
            Ok(Ok(rules)) => {
                let late = LateNames {
                    rows: self.rows,
                    under_way: None,
                };
                (rules, late)
            }
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(
                    "the names in ACCESS rows are not looked up yet: the name service does not answer; until it does, rows \
                     with names grant nothing"
                );
                let rules = AccessRules::of_numbers(&self.rows);
                let late = LateNames {
                    rows: self.rows,
                    under_way: Some(self.answer),
                };
                (rules, late)
            }
        }
    }
}

/// Names that may become known later.
#[derive(Debug)]
pub struct LateNames {
    rows: Vec<AccessInit>,
    under_way: Option<oneshot::Receiver<AccessRules>>,
}

impl LateNames {
    /// Looks up again until every name is known, and hands over what has changed.
    pub(super) async fn keep_looking(mut self, mut known: AccessRules, changed: impl Fn(&AccessRules)) {
        let mut pause = PAUSE_FIRST;
        loop {
            let answer = match self.under_way.take() {
                Some(answer) => answer,
                None if known.is_complete() => return,
                None => {
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_LONGEST);
                    match NameLookup::begin(self.rows.clone()) {
                        Ok(lookup) => lookup.answer,
                        Err(error) => {
                            tracing::warn!(%error, "the names in ACCESS rows cannot be looked up: no thread");
                            continue;
                        }
                    }
                }
            };
            // A thread that hangs in a lookup is waited for: another one would hang as well.
            if let Ok(rules) = answer.await
                && rules != known
            {
                rules.warn_of_unknown();
                changed(&rules);
                known = rules;
            }
        }
    }
}
