//! Manual pages, completions and the examples of the help: what they say is what the programs do.

use ccd_client::messages;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn pages() -> BTreeMap<String, String> {
    ccd_node::pages::manual().into_iter().collect()
}

/// As it would be read: dashes and quotes are themselves again.
fn read(source: &str) -> String {
    source
        .replace("\\-", "-")
        .replace("\\*(Aq", "'")
        .replace("\\fB", "")
        .replace("\\fI", "")
        .replace("\\fR", "")
}

/// Each command with its page's name; hidden ones are for other programs.
fn every_command() -> Vec<(String, clap::Command)> {
    fn collect(command: &clap::Command, section: u8, into: &mut Vec<(String, clap::Command)>) {
        let name = command
            .get_bin_name()
            .unwrap_or(command.get_name())
            .replace(' ', "-");
        into.push((format!("{name}.{section}"), command.clone()));
        let verbs = command.get_subcommands();
        for verb in verbs.filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
            collect(verb, section, into);
        }
    }
    let mut all = Vec::new();
    for (section, mut command) in ccd_node::pages::commands() {
        command.build();
        collect(&command, section, &mut all);
    }
    all
}

#[test]
fn every_verb_has_a_page_with_all_its_flags_and_values() {
    let pages = pages();
    let commands = every_command();
    assert!(commands.len() > 50, "there are {} commands", commands.len());
    for (page, command) in commands {
        let text = read(pages.get(&page).unwrap_or_else(|| panic!("there is no {page}")));
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let shown = match argument.get_long() {
                Some(long) => format!("--{long}"),
                None => argument.get_value_names().map_or_else(
                    || format!("-{}", argument.get_short().unwrap_or_default()),
                    |names| names[0].to_string(),
                ),
            };
            assert!(text.contains(&shown), "{page} lacks {shown}");
        }
        for verb in command
            .get_subcommands()
            .filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
        {
            let name = format!(
                "{}-{}(",
                page.rsplit_once('.').expect("a section").0,
                verb.get_name()
            );
            assert!(text.contains(&name), "{page} lacks {name}");
        }
        assert!(text.contains(".SH EXAMPLES"), "{page} has examples");
    }
}

#[test]
fn each_page_that_another_refers_to_is_there() {
    let mut there: BTreeSet<String> = pages().into_keys().collect();
    let by_hand = workspace().join("ccd-client/c/man");
    for entry in std::fs::read_dir(by_hand).expect("section 3 is there") {
        let path = entry.expect("an entry").path();
        let source = std::fs::read_to_string(&path).expect("it is text");
        // A page that describes several calls is installed under the name of each.
        let names = source
            .split(".SH NAME\n")
            .nth(1)
            .and_then(|rest| rest.lines().next())
            .expect("NAME");
        let names = names.split(" \\- ").next().unwrap_or_default().split(", ");
        there.extend(names.map(|name| format!("{name}.3")));
    }
    for (page, source) in pages() {
        let text = read(&source);
        for word in text.split([' ', '\n', ',', '.']) {
            let Some((name, section)) = word.strip_suffix(')').and_then(|word| word.split_once('(')) else {
                continue;
            };
            if name.starts_with("ccd") && section.len() == 1 {
                assert!(
                    there.contains(&format!("{name}.{section}")),
                    "{page} refers to {word}"
                );
            }
        }
    }
}

#[test]
fn every_message_is_on_its_page_and_in_the_catalogue() {
    let page = read(&pages()["ccd-messages.7"]);
    for message in messages::every() {
        for text in [message.to_string(), format!("Action: {}.", message.action)] {
            assert!(page.contains(&text), "{text}");
        }
    }
    let mut used = BTreeSet::new();
    for package in ["ccd-core", "ccd-disk", "ccd-mirror", "ccd-client", "ccd-node"] {
        ids_below(&workspace().join(package).join("src"), &mut used);
    }
    for id in &used {
        assert!(messages::find(id).is_some(), "{id} is explained nowhere");
    }
    let unused: Vec<_> = messages::REGIONS
        .iter()
        .map(ToString::to_string)
        .filter(|id| !used.contains(id))
        .collect();
    assert_eq!(unused, Vec::<String>::new());
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}

/// Ids that stand in sources.
fn ids_below(folder: &Path, ids: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            ids_below(&path, ids);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("sources are text");
            // Comments may name any number for an example.
            for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                for (at, _) in line.match_indices("CCD-") {
                    let id: String = line[at..].chars().take(8).collect();
                    if id.len() == 8 && id[4..].bytes().all(|byte| byte.is_ascii_digit()) {
                        ids.insert(id);
                    }
                }
            }
        }
    }
}

#[test]
fn the_examples_of_every_help_are_accepted_by_the_parser() {
    let programs: BTreeMap<String, clap::Command> = ccd_node::pages::commands()
        .into_iter()
        .map(|(_, command)| (command.get_name().to_owned(), command))
        .collect();
    for (page, command) in every_command() {
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let mut lines = help.split("\\\n");
        let first = lines.next().unwrap_or_default().to_owned();
        // As a shell joins lines that end with a backslash.
        let help = lines.fold(first, |joined, line| joined + line.trim_start());
        let examples = help
            .split("\n\n")
            .filter_map(|block| block.strip_prefix("Examples:"));
        if help.is_empty() {
            // A verb of a verb: its parent's help has its examples.
            continue;
        }
        let mut tried = 0;
        for line in examples.flat_map(str::lines) {
            for words in simple_commands(line) {
                let Some(program) = words.first().and_then(|first| programs.get(first)) else {
                    continue;
                };
                tried += 1;
                if let Err(error) = program.clone().try_get_matches_from(&words) {
                    assert!(!error.use_stderr(), "{page}: {line:?}: {error}");
                }
            }
        }
        assert!(tried > 0, "{page} has no example of itself");
    }
}

/// The commands of a line of shell, each in its words. Two blanks begin the example's own comment.
fn simple_commands(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), String::new());
    let (mut quote, mut to_file) = (None, false);
    let line = line.trim();
    let mut rest = line.chars().peekable();
    while let Some(character) = rest.next() {
        let is_end = match (quote, character) {
            (Some(open), _) if character == open => {
                quote = None;
                false
            }
            (Some(_), _) => {
                word.push(character);
                false
            }
            (None, '\'' | '"') => {
                quote = Some(character);
                false
            }
            (None, ' ' | '|' | ';' | '&' | '>' | '<') => true,
            (None, _) => {
                word.push(character);
                false
            }
        };
        if !is_end {
            continue;
        }
        let is_file = !word.is_empty() && std::mem::take(&mut to_file);
        let is_variable = words.is_empty() && word.contains('=');
        if !(word.is_empty() || is_file || is_variable) {
            words.push(std::mem::take(&mut word));
        }
        word.clear();
        match character {
            ' ' if rest.peek() == Some(&' ') => break,
            ' ' => {}
            '>' | '<' => {
                to_file = true;
                while rest.peek() == Some(&' ') {
                    rest.next();
                }
            }
            _ => commands.push(std::mem::take(&mut words)),
        }
    }
    if !word.is_empty() && !to_file {
        words.push(word);
    }
    commands.push(words);
    commands
}

#[test]
fn a_line_of_an_example_is_taken_apart_as_a_shell_would() {
    let words = |line| {
        let commands = simple_commands(line)
            .into_iter()
            .filter(|words| !words.is_empty());
        commands.map(|words| words.join("_")).collect::<Vec<_>>()
    };
    assert_eq!(
        words("  ccdadm query KEY 'a b'   what it does"),
        ["ccdadm_query_KEY_a b"]
    );
    assert_eq!(words("CCD_LOG=debug ccdd run"), ["ccdd_run"]);
    assert_eq!(words("a | b && c > file"), ["a", "b", "c"]);
    assert_eq!(words("ccdadm apply --x=1 -"), ["ccdadm_apply_--x=1_-"]);
}

#[test]
fn pages_and_completions_are_written_where_they_are_looked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    ccd_node::pages::write(folder.path()).expect("it is written");
    let text = |path: &str| {
        std::fs::read_to_string(folder.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    for path in [
        "man/man1/ccdadm.1",
        "man/man8/ccdd.8",
        "man/man5/ccd-init.5",
        "man/man7/ccd.7",
    ] {
        assert!(text(path).contains(".SH NAME"), "{path}");
    }
    for path in [
        "bash-completion/completions/ccdadm.bash",
        "zsh/site-functions/_ccdadm",
        "fish/vendor_completions.d/ccdadm.fish",
    ] {
        for verb in ["checkpoint", "rollback"] {
            assert!(text(path).contains(verb), "{path} knows {verb}");
        }
    }
    for program in ["ccdctl", "ccd-disk", "ccdd"] {
        assert!(!text(&format!("fish/vendor_completions.d/{program}.fish")).is_empty());
    }
}

#[test]
fn the_contract_of_json_names_every_verb_and_no_other() {
    let documented: BTreeSet<String> = (ccd_node::pages::schemas().into_iter())
        .map(|schema| schema.verb.trim_end_matches(" 2").to_owned())
        .collect();
    let commands = every_command();
    let known: BTreeSet<String> = (commands.iter())
        .filter_map(|(_, command)| command.get_bin_name().map(str::to_owned))
        .collect();
    let unknown: Vec<_> = documented.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    // A verb that only has others below it prints nothing itself; the daemon has no JSON.
    let leaves = commands
        .iter()
        .filter(|(page, command)| !page.ends_with(".8") && !command.has_subcommands());
    let leaves = leaves.filter_map(|(_, command)| command.get_bin_name());
    let missing: Vec<_> = leaves.filter(|verb| !documented.contains(*verb)).collect();
    // It prints a database, in text form.
    assert_eq!(missing, ["ccdadm branches show"], "docs/json.md lacks some");
}
