//! What `ccdadm status --json` says, for tests of either kind.

use super::programs::Finished;
use serde_json::Value;

/// The status of the cluster as one node sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report(Value);

impl Report {
    /// What `ccdadm status --json` printed, or why there is none.
    ///
    /// # Errors
    /// The program's message, when the daemon did not answer.
    pub fn read(finished: &Finished) -> Result<Self, String> {
        match finished.code {
            0..=2 => Ok(Self(finished.json())),
            _ => Err(finished.err.clone()),
        }
    }

    pub fn value(&self) -> &Value {
        &self.0
    }

    /// `serving paired`, `serving solo`, `waiting`, ….
    pub fn state(&self) -> String {
        let cluster = &self.0["cluster"];
        let state = cluster["state"].as_str().unwrap_or_default();
        let mode = cluster["mode"].as_str().unwrap_or_default();
        if state == "serving" {
            format!("{state} {mode}")
        } else {
            state.to_owned()
        }
    }

    pub fn is_serving(&self) -> bool {
        self.0["cluster"]["state"] == "serving"
    }

    pub fn verdict(&self) -> String {
        let verdict = self.0["cluster"]["verdict"].as_str();
        verdict.unwrap_or_default().to_owned()
    }

    /// Whether the device of this role (0 is the primary) holds everything.
    pub fn is_in_sync(&self, role: usize) -> bool {
        self.0["devices"][role]["in_sync"] == Value::Bool(true)
    }
}
