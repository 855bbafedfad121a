//! One command of the demo: printed as one would type it, run, its output printed and checked.

use super::Trouble;
use super::stage::Stage;
use std::io::Write;
use std::process::Output;
use std::time::{Duration, Instant};

/// How long anything may take to come about.
const PATIENCE: Duration = Duration::from_secs(15);

/// Nobody reads on: that is no reason to stop half-way.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// What a command must show.
#[derive(Clone, Copy, Debug)]
pub struct Shows<'a> {
    /// Any of these exit codes.
    pub exit: &'a [i32],
    /// Each of these somewhere on standard output.
    pub text: &'a [&'a str],
}

/// Exit code 0, and these texts.
pub fn shows<'a>(text: &'a [&'a str]) -> Shows<'a> {
    Shows { exit: &[0], text }
}

/// Prints and runs a command, and checks what it shows.
pub fn run(stage: &Stage, line: &[&str], must: Shows) -> Result<String, Trouble> {
    stage.check_interrupt()?;
    say(&format!("\n$ {}", typed(line)));
    let output = execute(stage, line)?;
    print(&output);
    check(line, &output, must)
}

/// Runs a command again and again until it shows what it must, and prints only that last time.
pub fn run_until(stage: &mut Stage, line: &[&str], must: Shows) -> Result<(), Trouble> {
    let (output, outcome) = repeat(stage, line, must)?;
    say(&format!("\n$ {}", typed(line)));
    print(&output);
    outcome
}

/// As [`run_until`], but prints nothing.
pub fn wait_until(stage: &mut Stage, line: &[&str], must: Shows) -> Result<(), Trouble> {
    repeat(stage, line, must)?.1
}

fn repeat(stage: &mut Stage, line: &[&str], must: Shows) -> Result<(Output, Result<(), Trouble>), Trouble> {
    let started = Instant::now();
    loop {
        stage.check_interrupt()?;
        let output = execute(stage, line)?;
        let outcome = check(line, &output, must).map(drop);
        if outcome.is_ok() || started.elapsed() > PATIENCE {
            return Ok((output, outcome));
        }
        for node in 0..2 {
            if let Some(status) = stage.has_ended(node) {
                return Err(Trouble::Unexpected {
                    expected: format!("the daemon of {} to run", super::stage::NODES[node]),
                    got: format!("its end: {status}"),
                });
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn execute(stage: &Stage, line: &[&str]) -> Result<Output, Trouble> {
    let (program, arguments) = line.split_first().expect("a command has a name");
    stage
        .command(program)
        .args(arguments)
        .output()
        .map_err(Trouble::system(*program))
}

fn print(output: &Output) {
    for stream in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(stream);
        if !text.is_empty() {
            say(text.trim_end());
        }
    }
    if let Some(code) = output.status.code().filter(|code| *code != 0) {
        say(&format!("(exit code {code})"));
    }
}

fn check(line: &[&str], output: &Output, must: Shows) -> Result<String, Trouble> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let code = output.status.code();
    if !code.is_some_and(|code| must.exit.contains(&code)) {
        return Err(Trouble::Unexpected {
            expected: format!("`{}` to end with {:?}", typed(line), must.exit),
            got: match code {
                Some(code) => format!("exit code {code}"),
                None => output.status.to_string(),
            },
        });
    }
    for wanted in must.text {
        if !text.contains(wanted) {
            return Err(Trouble::Unexpected {
                expected: format!("{wanted:?} in the output of `{}`", typed(line)),
                got: format!("{:?}", text.trim_end()),
            });
        }
    }
    Ok(text)
}

/// As one would type it in a shell.
fn typed(line: &[&str]) -> String {
    let quoted = line.iter().map(|word| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:@+".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            (*word).to_owned()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_a_shell_takes_them() {
        let line = ["ccdadm", "--run", "alpha/run", "query", "K", "clust*", "it's"];
        assert_eq!(typed(&line), r"ccdadm --run alpha/run query K 'clust*' 'it'\''s'");
    }
}
