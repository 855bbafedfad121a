//! Why no daemon answers: what it said when it did not start, or what is wrong with what it starts from.

use crate::cli::failure::Stop;
use crate::files::{Authkeys, read_init, this_node};
use crate::messages;
use crate::places::Places;
use std::fs;
use std::path::Path;

/// The failure to reach the daemon, with its cause as far as it can be found without one. Others are left as they are.
pub(super) fn explained(places: &Places, stop: Stop) -> Stop {
    match stop {
        Stop::Failed(mut failure) if failure.message.id == messages::DAEMON_NOT_REACHABLE.id => {
            let Cause { why, action } = cause(places);
            failure.why = format!("{why} ({})", failure.why);
            failure.action = Some(action);
            Stop::Failed(failure)
        }
        Stop::Failed(mut failure) if failure.message.id == messages::DAEMON_TIMED_OUT.id => {
            if let Some(Cause { why, action }) = holder(&places.state).and_then(|holder| holder.hangs()) {
                failure.why = format!("{why} ({})", failure.why);
                failure.action = Some(action);
            }
            Stop::Failed(failure)
        }
        other => other,
    }
}

struct Cause {
    why: String,
    action: String,
}

fn cause(places: &Places) -> Cause {
    let (etc, state) = (places.etc.display(), places.state.display());
    if let Some(holder) = holder(&places.state) {
        return holder.hangs().unwrap_or_else(|| Cause {
            why: format!(
                "ccdd runs (process {}), and its socket in {} is gone or another's",
                holder.process,
                places.run.display()
            ),
            action:
                "repeat it in 5 s, when the socket has been made again; if it has not, systemctl restart ccdd"
                    .to_owned(),
        });
    }
    let files = read_init(places)
        .and_then(|init| this_node(places, &init, None).map(|_| ()))
        .and_then(|()| Authkeys::read(places).map(|_| ()));
    if let Err(error) = files {
        return Cause {
            why: format!("ccdd does not run, and cannot start: {error}"),
            action: format!("{}, then systemctl start ccdd", error.message().action),
        };
    }
    if let Some(refusal) = refusal(places) {
        return Cause {
            why: format!("ccdd does not run; it refused to start: {refusal}"),
            action: "do what it says, then systemctl start ccdd; journalctl -u ccdd shows the whole log"
                .to_owned(),
        };
    }
    if !places.state.is_dir() {
        return Cause {
            why: format!("ccdd does not run, and never has: {etc} is set up, and there is no {state}"),
            action: "systemctl start ccdd".to_owned(),
        };
    }
    Cause {
        why: "ccdd does not run".to_owned(),
        action: "systemctl start ccdd; journalctl -u ccdd says why it ended".to_owned(),
    }
}

/// What the last daemon that did not start said.
fn refusal(places: &Places) -> Option<String> {
    let text = fs::read_to_string(places.refusal_path()).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The daemon's process.
struct Holder {
    process: String,
    /// As `ps` shows it: `S` sleeps, `T` is stopped, `t` is stopped by a debugger, `D` waits for a device.
    state: char,
    /// The process that traces it, with its name as far as it is known: `4712 (gdb)`.
    tracer: Option<String>,
}

impl Holder {
    /// Why it answers nobody, if its state tells.
    fn hangs(&self) -> Option<Cause> {
        let Self {
            process,
            state,
            tracer,
        } = self;
        match state {
            // No signal ends that.
            't' => Some(match tracer {
                Some(tracer) => Cause {
                    why: format!("ccdd (process {process}) is stopped by process {tracer}, which traces it"),
                    action: format!(
                        "let process {tracer} go on or detach; or kill {}",
                        tracer.split(' ').next().unwrap_or_default()
                    ),
                },
                None => Cause {
                    why: format!("ccdd (process {process}) is stopped by a process that traces it"),
                    action: format!("grep TracerPid /proc/{process}/status, and let that process detach"),
                },
            }),
            'T' => Some(Cause {
                why: format!("ccdd (process {process}) is stopped by a signal"),
                action: format!("kill -CONT {process}"),
            }),
            'D' => Some(Cause {
                why: format!(
                    "ccdd (process {process}) waits for a device or a file system that does not answer"
                ),
                action: format!("cat /proc/{process}/stack; dmesg"),
            }),
            _ => None,
        }
    }
}

/// The process that has the state folder, if it still runs. Its lock is not tried: a daemon that starts just then would find it taken.
fn holder(state: &Path) -> Option<Holder> {
    let process = fs::read_to_string(state.join("lock")).ok()?;
    let process = process.trim();
    let is_number = !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit());
    let stat = is_number.then(|| fs::read_to_string(format!("/proc/{process}/stat")))?;
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let mut holder = holder_by(process, &stat.ok()?)?;
    holder.tracer = tracer_by(&status).map(|tracer| {
        let name = fs::read_to_string(format!("/proc/{tracer}/comm")).unwrap_or_default();
        let name = name.trim().replace(|letter: char| letter.is_control(), "?");
        if name.is_empty() {
            tracer
        } else {
            format!("{tracer} ({name})")
        }
    });
    Some(holder)
}

/// The number after `TracerPid:` in `/proc/PID/status`; 0 if no process traces it.
fn tracer_by(status: &str) -> Option<String> {
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    Some(tracer.trim().to_owned()).filter(|tracer| tracer != "0")
}

/// By the line of `/proc/PID/stat`: `4711 (ccdd) S …`. One that has ended and was not waited for runs no more.
fn holder_by(process: &str, stat: &str) -> Option<Holder> {
    let (before, after) = stat.rsplit_once(')')?;
    let state = after.trim_start().chars().next()?;
    let is_ccdd = before.split_once('(')?.1 == "ccdd";
    (is_ccdd && state != 'Z').then(|| Holder {
        process: process.to_owned(),
        state,
        tracer: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::Failure;

    fn said(places: &Places) -> (String, String) {
        let stop = Stop::new(
            &messages::DAEMON_NOT_REACHABLE,
            "show the status",
            "the socket: refused",
        );
        match explained(places, stop) {
            Stop::Failed(failure) => {
                let Failure { why, action, .. } = *failure;
                (why, action.expect("one is given"))
            }
            Stop::ClosedPipe => panic!("it failed"),
        }
    }

    #[test]
    fn a_daemon_that_is_stopped_or_waits_for_a_device_is_told_from_one_that_has_ended() {
        let state_of = |stat: &str| holder_by("4711", stat).map(|holder| holder.state);
        assert_eq!(state_of("4711 (ccdd) S 1 4711"), Some('S'));
        assert_eq!(state_of("4711 (ccdd) Z 1 4711"), None);
        assert_eq!(state_of("4711 (bash (x) S) S 1"), None);
        let why = |stat: &str| holder_by("4711", stat).and_then(|holder| holder.hangs());
        assert!(why("4711 (ccdd) S 1").is_none());
        assert_eq!(
            why("4711 (ccdd) T 1").expect("it is stopped").action,
            "kill -CONT 4711"
        );
        assert!(
            why("4711 (ccdd) D 1")
                .expect("it hangs")
                .why
                .contains("does not answer")
        );
    }

    #[test]
    fn a_daemon_that_a_debugger_stopped_is_told_of_with_the_debugger_and_not_with_a_signal() {
        assert_eq!(tracer_by("Name:\tccdd\nTracerPid:\t0\n"), None);
        let tracer = tracer_by("Name:\tccdd\nTracerPid:\t4712\nUid:\t0\n");
        assert_eq!(tracer.as_deref(), Some("4712"));
        let holder = holder_by("4711", "4711 (ccdd) t 1").expect("it runs");
        for tracer in [None, Some("4712 (gdb)".to_owned())] {
            let holder = Holder {
                tracer: tracer.clone(),
                process: holder.process.clone(),
                state: holder.state,
            };
            let cause = holder.hangs().expect("it is stopped");
            assert!(!cause.action.contains("CONT"), "{}", cause.action);
            if let Some(tracer) = tracer {
                assert!(cause.why.contains(&tracer), "{}", cause.why);
                assert!(cause.action.contains("kill 4712"), "{}", cause.action);
            }
        }
    }

    #[test]
    fn what_keeps_the_daemon_from_running_is_said_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        let places = Places {
            etc: place("etc"),
            state: place("state"),
            run: place("run"),
        };
        for name in ["etc", "run"] {
            fs::create_dir(place(name)).expect("the folder is ours");
        }
        let (why, action) = said(&places);
        assert!(why.contains("cannot start") && why.contains("init.ccd"), "{why}");
        assert!(action.contains("systemctl start ccdd"), "{action}");
        let init = "CLUSTER:prod:00112233445566778899aabbccddeeff\nNODE:0:alpha\nADDRESS:alpha:10.0.0.1:\n";
        fs::write(places.init_path(), init).expect("the folder is ours");
        let (why, _) = said(&places);
        assert!(why.contains("/node"), "{why}");
        fs::write(places.node_path(), "alpha\n").expect("the folder is ours");
        let (why, _) = said(&places);
        assert!(why.contains("authkey"), "{why}");
        let key = places.authkey_path();
        fs::write(&key, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").expect("the folder is ours");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o400);
        fs::set_permissions(&key, mode).expect("it is ours");
        let (why, _) = said(&places);
        assert!(why.contains("never has"), "{why}");
        fs::create_dir(&places.state).expect("the folder is ours");
        assert!(
            said(&places).0.starts_with("ccdd does not run ("),
            "{}",
            said(&places).0
        );
        fs::write(places.refusal_path(), "cannot listen on 10.0.0.1\n").expect("the folder is ours");
        let (why, _) = said(&places);
        assert!(
            why.contains("it refused to start: cannot listen on 10.0.0.1"),
            "{why}"
        );
        // Whoever has the number now is no ccdd.
        fs::write(places.state.join("lock"), format!("{}\n", std::process::id())).expect("it is ours");
        assert!(said(&places).0.contains("refused to start"));
    }
}
