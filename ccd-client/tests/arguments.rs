//! Wrong arguments of every kind: each is refused with a message that says what is wrong, and nothing is done.

mod support;

use support::{Fake, fake_with_rows, run};

#[test]
fn what_the_parser_refuses_names_no_folder_and_no_hidden_verb() {
    let fake = Fake::start();
    for words in [
        &["query"][..],
        &["rollback"],
        &["restore"],
        &["checkpoint", ""],
        &["sync-command"],
        &["authkey"],
    ] {
        let ran = fake.ccdadm(words).expect(64).says("CCD-1001");
        for word in ["--etc", "--run", "completions"] {
            assert!(!ran.stderr.contains(word), "{word} in {ran:#?}");
        }
    }
    // Whoever types the name alone wants to know what there is.
    for program in ["ccdadm", "ccdctl"] {
        run(program, None, &[], "").expect(64).says("Examples:");
    }
}

#[test]
fn numbers_times_and_words_out_of_range_are_refused_by_name() {
    let fake = fake_with_rows();
    for (words, says) in [
        (&["history", "--last", "0"][..], "1..=1000000"),
        (&["history", "--last=-1"], "--last"),
        (&["why", "-c", "x"], "--count"),
        (&["why", "-c", "99999999999"], "--count"),
        (&["rollback", "abc"], "GENERATION"),
        (&["rollback", "18446744073709551616"], "GENERATION"),
        (&["quorum", "maybe"], "possible values: on, off"),
        (&["query", "MY_KEY", "--wildcard", "ab"], "--wildcard"),
        (&["add", "MY_KEY", "--if-generation", "x", "a"], "--if-generation"),
        (&["status", "--timeout", "0"], "more than 0"),
        (&["status", "--timeout", "5h"], "ms, s or m"),
        (&["status", "--watch", "--interval", "0"], "more than 0"),
        (&["status", "-q", "-v"], "cannot be used with"),
        (&["report", "--last", "0"], "--last"),
        (&["diff", "branch:", "now"], "a branch has a name"),
        (&["edit-init", "--check", "--options"], "cannot be used with"),
        (&["checkpoints", "--dry-run"], "--drop"),
        (&["nonsense"], "nonsense"),
    ] {
        fake.ccdadm(words).expect(64).says("CCD-1001").says(says);
    }
    assert_eq!(
        fake.ccdadm(&["query", "MY_KEY"]).expect(0).stdout.lines().count(),
        2
    );
}

#[test]
fn an_empty_transaction_makes_no_generation() {
    let fake = fake_with_rows();
    let generation = |fake: &Fake| fake.with(|state| state.database.position().stamp.generation.0);
    let before = generation(&fake);
    fake.ccdadm(&["apply", "/dev/null"])
        .expect(0)
        .says("nothing to apply");
    let json = run(
        "ccdadm",
        Some(fake.folder.path()),
        &["--json", "apply", "-"],
        "# a comment\n",
    )
    .expect(0)
    .json();
    assert_eq!(
        (json["committed"].as_bool(), json["same"].as_bool()),
        (Some(false), Some(true))
    );
    assert_eq!(generation(&fake), before);
    // A precondition alone is a question, and is answered.
    run(
        "ccdadm",
        Some(fake.folder.path()),
        &["apply", "-"],
        "if generation = 999\n",
    )
    .expect(1);
}

#[test]
fn advice_fits_what_is_wrong() {
    let fake = fake_with_rows();
    fake.ccdadm(&["format", "K", "a b"])
        .expect_error(65, "CCD-1037", "no column name")
        .says("column names are words");
    fake.ccdadm(&["checkpoint", "/no/such/folder/x"]).expect_error(
        73,
        "CCD-1013",
        "/no/such/folder/x: No such file",
    );
    fake.ccdadm(&["apply", "/no/such"])
        .expect_error(66, "CCD-1010", "/no/such");
}
