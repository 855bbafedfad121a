//! Options that every verb of ccdadm and ccdctl takes.

use super::failure::{Doing, Stop};
use super::terminal::Terminal;
use crate::client::Client;
use crate::places::Places;
use std::time::Duration;

#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    #[command(flatten)]
    pub places: Places,
    /// Print JSON
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Give up after this time: 500ms, 5s, 2m, or a number of seconds [default: the cluster's
    /// request_timeout_ms]
    #[arg(long, value_name = "TIME", global = true, help_heading = "Everywhere", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Print nothing but what was asked for, and errors
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        help_heading = "Everywhere"
    )]
    pub quiet: bool,
    /// Say what is done
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    pub verbose: bool,
}

impl Common {
    pub(super) fn terminal(&self, program: &'static str) -> Terminal {
        Terminal::new(program, self.json, self.quiet, self.verbose)
    }

    /// Attaches to the daemon; `doing` completes "cannot …".
    pub(super) fn attach(&self, program: &str, doing: &str) -> Result<Client, Stop> {
        match self.timeout {
            Some(timeout) => Client::attach_within(&self.places, program, timeout),
            None => Client::attach(&self.places, program),
        }
        .doing(doing)
    }
}

/// Longest time-out: a day.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// `500ms`, `5s`, `2m`, `1.5` (seconds); more than nothing, at most a day.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit_s) = if let Some(number) = text.strip_suffix("ms") {
        (number, 0.001)
    } else if let Some(number) = text.strip_suffix('s') {
        (number, 1.0)
    } else if let Some(number) = text.strip_suffix('m') {
        (number, 60.0)
    } else {
        (text, 1.0)
    };
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    number
        .parse::<f64>()
        .ok()
        .filter(|_| plain)
        .and_then(|number| Duration::try_from_secs_f64(number * unit_s).ok())
        .filter(|time| !time.is_zero() && *time <= TIMEOUT_MAX)
        .ok_or_else(|| {
            "a time is a number with ms, s or m after it, more than 0 and at most 1440m".to_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_bounds() {
        for (text, expected_ms) in [
            ("500ms", Some(500)),
            ("5s", Some(5_000)),
            ("2m", Some(120_000)),
            ("1.5", Some(1_500)),
            ("1440m", Some(86_400_000)),
            ("1441m", None),
            ("0", None),
            ("-1", None),
            ("inf", None),
            ("1e9", None),
            ("", None),
            ("ms", None),
            ("5 s", None),
            ("5h", None),
        ] {
            let parsed = parse_duration(text).ok().map(|time| time.as_millis());
            assert_eq!(parsed, expected_ms, "{text:?}");
        }
    }
}
