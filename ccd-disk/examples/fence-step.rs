//! Does fencing steps one by one on a device and prints what is read back: for trying targets and kernels.
//!
//! ```text
//! fence-step DEVICE look , register KEY , reserve KEY , preempt KEY VICTIM , clear KEY , inspect , sleep MS
//! ```
//!
//! Keys are hexadecimal. One `Fence` does all of them, as a daemon's would.

use anyhow::{Context, Result, bail};
use ccd_core::reservation::{FenceOp, ReservationKey};
use ccd_disk::fencing::Fence;
use std::path::Path;
use std::time::{Duration, Instant};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (device, rest) = words.split_first().context("which device?")?;
    let mut fence = Fence::open(Path::new(device))?;
    let identity = fence.identity();
    println!(
        "{device}: {} {:?} {:?}",
        identity.kind, identity.wwid, identity.paths
    );
    for step in rest.split(|word| word == ",") {
        let begun = Instant::now();
        let answer = match step_of(step)? {
            Step::Op(op) => format!("{:?}", fence.execute(op)),
            Step::Clear(key) => format!("{:?}", fence.clear(key)),
            Step::Inspect => format!("{:?}", fence.inspect()),
            Step::Sleep(span) => {
                std::thread::sleep(span);
                "slept".to_owned()
            }
        };
        println!(
            "{device} {}: {answer} [{} ms]",
            step.join(" "),
            begun.elapsed().as_millis()
        );
    }
    for note in fence.notes() {
        println!("{device} note: {note}");
    }
    Ok(())
}

enum Step {
    Op(FenceOp),
    Clear(ReservationKey),
    Inspect,
    Sleep(Duration),
}

fn step_of(words: &[String]) -> Result<Step> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(match words.as_slice() {
        ["look"] => Step::Op(FenceOp::Look),
        ["inspect"] => Step::Inspect,
        ["register", key] => Step::Op(FenceOp::Register { key: key_of(key)? }),
        ["reserve", key] => Step::Op(FenceOp::Reserve { key: key_of(key)? }),
        ["preempt", key, victim] => Step::Op(FenceOp::PreemptAbort {
            key: key_of(key)?,
            victim: key_of(victim)?,
        }),
        ["clear", key] => Step::Clear(key_of(key)?),
        ["sleep", ms] => Step::Sleep(Duration::from_millis(ms.parse()?)),
        other => bail!("no such step: {other:?}"),
    })
}

fn key_of(text: &str) -> Result<ReservationKey> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let bits = u64::from_str_radix(digits, 16).with_context(|| format!("{text} is no key"))?;
    Ok(ReservationKey::from_bits(bits))
}
