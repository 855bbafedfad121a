//! Where the time of a reconfiguration went, for people: told with the record of its opening (`ccdadm why`).

use crate::time::Time;
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What was done since a proposal was begun, and when.
#[derive(Clone, Debug)]
pub(in crate::protocol) struct Milestones {
    begun: Time,
    /// How long a member that is left out had been silent then.
    silent_ms: Option<u128>,
    done: Vec<(Cow<'static, str>, Time)>,
}

impl Milestones {
    pub fn new(begun: Time, silent_since: Option<Time>) -> Self {
        Self {
            begun,
            silent_ms: silent_since.map(|since| begun.since(since).as_millis()),
            done: Vec::new(),
        }
    }

    /// The first time that something is done counts.
    pub fn note(&mut self, what: impl Into<Cow<'static, str>>, now: Time) {
        let what = what.into();
        if self.done.iter().all(|(known, _)| *known != what) {
            self.done.push((what, now));
        }
    }

    /// `after 1003 ms of silence; 12 ms: primary fenced 3.1, decided 9.8, written 11.9`.
    pub fn told(&self, now: Time) -> String {
        let ms = |until: Time| format!("{:.1}", until.since(self.begun).as_secs_f64() * 1e3);
        let steps: Vec<String> = (self.done.iter())
            .map(|(what, at)| format!("{what} {}", ms(*at)))
            .collect();
        let silence =
            (self.silent_ms).map_or_else(String::new, |span| format!("after {span} ms of silence; "));
        format!("{silence}{} ms: {}", ms(now), steps.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    #[test]
    fn each_step_is_told_once_with_its_time() {
        let begun = Time::ZERO + Duration::from_secs(5);
        let mut milestones = Milestones::new(begun, Some(begun - Duration::from_millis(1_003)));
        milestones.note("primary fenced", begun + Duration::from_micros(3_100));
        milestones.note("primary fenced", begun + Duration::from_micros(7_000));
        milestones.note("decided", begun + Duration::from_micros(9_800));
        assert_eq!(
            milestones.told(begun + Duration::from_millis(12)),
            "after 1003 ms of silence; 12.0 ms: primary fenced 3.1, decided 9.8"
        );
    }
}
