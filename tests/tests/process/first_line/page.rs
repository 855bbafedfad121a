//! `docs/situations.md`: what an operator sees in each situation, from the table of the tests.

use super::Situation;
use std::fmt::Write;
use std::fs;
use std::path::Path;

const HEAD: &str = "\
# What you see, and what it means

The first line of `ccdadm status` in each situation, on a pair `alpha` and `beta`: words that it holds, and its exit code. Each of them is
caused on real daemons by the tests, which also write this page (`CCD_PAGES_WRITE=1 tests/run process first_line`).
";

/// As an operator of a cluster `prod` sees it.
fn shown(word: &str) -> String {
    word.replace("/proc/self/cwd/", "/dev/ccd/prod/")
        .replace("--cluster test", "--cluster prod")
        .replace("--force test", "--force prod")
}

fn text(situations: &[&Situation]) -> String {
    let mut text = HEAD.to_owned();
    for situation in situations {
        write!(text, "\n## {}\n\n", situation.name).expect("it is memory");
        for (node, seen) in [("alpha", &situation.alpha), ("beta", &situation.beta)] {
            let words: Vec<String> = seen
                .words
                .iter()
                .map(|word| format!("`{}`", shown(word)))
                .collect();
            writeln!(
                text,
                "- on {node}, exit code {}: {}",
                seen.exit,
                words.join(" … ")
            )
            .expect("it is memory");
        }
    }
    text
}

/// The page is what the table says; with `CCD_PAGES_WRITE` it is written.
pub fn compare(situations: &[&Situation]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/situations.md");
    let text = text(situations);
    if std::env::var_os("CCD_PAGES_WRITE").is_some() {
        fs::write(&path, text).expect("the page can be written");
        return;
    }
    let page = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == text,
        "docs/situations.md is not what the table says: CCD_PAGES_WRITE=1 tests/run process first_line"
    );
}
