//! The causes of problems, as programs read them, and the page that lists them.

use ccd_core::problem::Cause;

fn word(cause: Cause) -> String {
    let json = serde_json::to_value(cause).expect("a cause is plain data");
    json.as_str().expect("it is one word").to_owned()
}

#[test]
fn all_causes_are_listed_once_and_in_order() {
    assert!(Cause::ALL.windows(2).all(|two| two[0] < two[1]));
    // The last one: a cause that is not listed would count before it.
    assert_eq!(Cause::ALL.len(), Cause::NotRedundant as usize + 1);
}

#[test]
fn the_page_for_programs_lists_every_cause_in_order() {
    let page = include_str!("../../docs/json.md");
    let listed: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("  - `")?.split('`').next())
        .collect();
    let all: Vec<String> = Cause::ALL.into_iter().map(word).collect();
    assert_eq!(listed, all);
}
