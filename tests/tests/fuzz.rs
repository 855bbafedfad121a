//! The fuzz targets, without a fuzzer: over their seeds, over inputs that once found something, and over a bounded number of
//! mutations. `CCD_FUZZ_INPUTS` and `CCD_FUZZ_SEED` choose others, `CCD_FUZZ_TARGET` one target. For long runs see CONTRIBUTING.md.

use ccd_tests::fuzz::{Mutator, TARGETS, run, seeds};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// Mutations of each target's seeds.
const INPUTS: u64 = 20_000;

/// Of the target that drives a whole cluster with each of them.
const INPUTS_OF_NODE: u64 = 400;

fn number(variable: &str, usual: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => usual,
    }
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

#[test]
fn every_target_takes_its_seeds_and_their_mutations_without_a_panic() {
    let seed = number("CCD_FUZZ_SEED", 1);
    let only = std::env::var("CCD_FUZZ_TARGET").ok();
    for (target, check) in TARGETS {
        if only.as_ref().is_some_and(|only| only != target) {
            continue;
        }
        let usual = if target == "node" { INPUTS_OF_NODE } else { INPUTS };
        let inputs = number("CCD_FUZZ_INPUTS", usual);
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{target} has no seeds");
        for seed in &seeds {
            check(seed);
        }
        println!("{target}: seed {seed}, {} seeds, {inputs} mutations", seeds.len());
        let mut mutator = Mutator::new(seed);
        for input in 0..inputs {
            let data = mutator.damaged(&seeds);
            if catch_unwind(AssertUnwindSafe(|| check(&data))).is_err() {
                let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
                panic!("{target}: input {input} of seed {seed} found something: {hex}");
            }
        }
    }
}

#[test]
fn inputs_that_once_found_something_find_nothing() {
    for (target, _) in TARGETS {
        let Ok(files) = fs::read_dir(folder("found").join(target)) else {
            continue;
        };
        for file in files {
            let path = file.expect("the folder can be read").path();
            run(target, &fs::read(&path).expect("the file can be read"));
        }
    }
}

/// cargo-fuzz begins with files; they are written anew by `CCD_FUZZ_WRITE=1 cargo test -p ccd-tests --test fuzz seeds`.
#[test]
fn the_files_that_a_fuzzer_begins_with_are_the_seeds() {
    for (target, _) in TARGETS {
        let folder = folder("corpus").join(target);
        if std::env::var_os("CCD_FUZZ_WRITE").is_some() {
            fs::create_dir_all(&folder).expect("the folder can be made");
            for (number, seed) in seeds(target).iter().enumerate() {
                fs::write(folder.join(format!("seed-{number:02}")), seed).expect("there is room");
            }
        }
        for (number, seed) in seeds(target).iter().enumerate() {
            let path = folder.join(format!("seed-{number:02}"));
            let found = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(found == *seed, "{} is old: write the seeds anew", path.display());
        }
        assert!(
            fs::exists(
                PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/fuzz_targets/{target}.rs"))
            )
            .is_ok_and(|there| there),
            "{target} has no file for cargo-fuzz"
        );
    }
}
