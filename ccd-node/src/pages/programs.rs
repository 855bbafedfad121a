//! Pages of the programs, and one for each of their verbs: `ccdadm-query(1)`.
//!
//! Options come from clap by clap_mangen; what stands below them in the help is taken apart: examples, exit codes, prose.

use super::page::{Page, placeholder};
use ccd_client::Places;
use clap::Command;
use clap_mangen::roff::{bold, roman};

/// The page of a program and those of its verbs.
pub fn pages(mut program: Command, section: u8) -> Vec<Page> {
    program.build();
    let mut pages = Vec::new();
    add(&program, &program, None, section, &mut pages);
    pages
}

fn add(program: &Command, command: &Command, parent: Option<&Command>, section: u8, pages: &mut Vec<Page>) {
    pages.push(one(program, command, parent, section));
    for verb in verbs(command) {
        add(program, verb, Some(command), section, pages);
    }
}

fn verbs(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
}

/// `ccdadm-query`
fn name(command: &Command) -> String {
    command
        .get_bin_name()
        .unwrap_or_else(|| command.get_name())
        .replace(' ', "-")
}

fn one(program: &Command, command: &Command, parent: Option<&Command>, section: u8) -> Page {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut page = Page::new(&name(command), section, &lower_first(about.trim_end_matches('.')));
    page.heading("SYNOPSIS");
    let usage = command.clone().render_usage().to_string();
    for (index, line) in usage.lines().enumerate() {
        let line = line.trim().trim_start_matches("Usage:").trim();
        if index > 0 {
            page.line_break();
        }
        page.synopsis(command.get_bin_name().unwrap_or(command.get_name()), line);
    }
    let mut below = Below::of(command);
    if let Some(parent) = parent.filter(|_| below.examples.is_empty()) {
        // A verb of a verb, whose help has them all.
        let call = command.get_bin_name().unwrap_or_default();
        let examples = Below::of(parent).examples;
        let own: Vec<&str> = examples.lines().filter(|line| line.contains(call)).collect();
        below.examples = if own.is_empty() { examples } else { own.join("\n") };
    }
    page.heading("DESCRIPTION");
    let long = command.get_long_about().map(ToString::to_string);
    page.text(&full_stop(&long.unwrap_or(about)));
    for prose in &below.prose {
        page.prose(prose);
    }
    let section_text = section.to_string();
    if verbs(command).next().is_some() {
        page.heading("VERBS");
        for verb in verbs(command) {
            let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
            let term = vec![bold(name(verb)), roman(format!("({section_text})"))];
            page.tagged(term, &full_stop(&about));
        }
    }
    page.options(command);
    if !below.exit_codes.is_empty() {
        page.heading("EXIT STATUS");
        page.text(&full_stop(&below.exit_codes));
    }
    if !below.examples.is_empty() {
        page.heading("EXAMPLES");
        page.verbatim(&below.examples);
    }
    let is_program = program.get_name() == name(command);
    if is_program {
        page.heading("FILES");
        for (path, what) in files(&Places::standard()) {
            page.entry(&path, what);
        }
    }
    page.see_also(&related(program, command, section));
    page
}

/// What the help says below the options.
#[derive(Debug, Default)]
struct Below {
    examples: String,
    exit_codes: String,
    prose: Vec<String>,
}

impl Below {
    fn of(command: &Command) -> Self {
        let text = command.get_after_help().map(ToString::to_string);
        let mut below = Self::default();
        for block in text.unwrap_or_default().split("\n\n") {
            if let Some(examples) = block.strip_prefix("Examples:") {
                let lines = examples.lines().filter(|line| !line.trim().is_empty());
                let lines: Vec<&str> = lines
                    .map(|line| line.strip_prefix("  ").unwrap_or(line))
                    .collect();
                below.examples = lines.join("\n");
            } else if let Some(codes) = block.strip_prefix("Exit codes:") {
                below.exit_codes = codes.split_whitespace().collect::<Vec<_>>().join(" ");
            } else if !block.trim().is_empty() {
                below.prose.push(block.to_owned());
            }
        }
        below
    }
}

fn related(program: &Command, command: &Command, section: u8) -> Vec<String> {
    let mut related = Vec::new();
    let own = name(command);
    if program.get_name() == own {
        let others = ["ccdadm(1)", "ccdctl(1)", "ccd-disk(1)", "ccdd(8)"];
        let others = others.iter().filter(|page| !page.starts_with(&format!("{own}(")));
        related.extend(others.map(|page| (*page).to_owned()));
        related.push("ccd-init(5)".to_owned());
        related.push("ccd(7)".to_owned());
    } else {
        let parent = own.rsplit_once('-').map_or("", |(parent, _)| parent);
        // `ccdadm-sync-command-set` belongs to `ccdadm-sync-command`, `ccdadm-remove-format` to `ccdadm`.
        let parent = find(program, parent).unwrap_or(program.get_name().to_owned());
        related.push(format!("{parent}({section})"));
        if parent != program.get_name() {
            related.push(format!("{}({section})", program.get_name()));
        }
    }
    related.push("ccd-messages(7)".to_owned());
    related
}

/// The name, if a command has it that has verbs of its own.
fn find(command: &Command, wanted: &str) -> Option<String> {
    let own = name(command);
    if own == wanted && command.has_subcommands() {
        return Some(own);
    }
    verbs(command).find_map(|verb| find(verb, wanted))
}

/// What all programs use, by the definition of where it is.
pub fn files(places: &Places) -> Vec<(String, &'static str)> {
    let shown = |path: std::path::PathBuf| path.display().to_string();
    vec![
        (
            shown(places.init_path()),
            "the init database, see `ccd-init`(5); the same on every node",
        ),
        (
            shown(places.authkey_path()),
            "the keys that nodes prove to each other; readable by root only",
        ),
        (shown(places.node_path()), "this node's number or name"),
        (
            shown(places.sync_dir()),
            "synchronization commands, owned by root",
        ),
        (
            shown(places.local_copy_path()),
            "this node's copy of the database: a region on a file",
        ),
        (
            shown(places.checkpoints_dir()),
            "checkpoints of `ccdadm checkpoint`, and automatic ones",
        ),
        (
            shown(places.branches_dir()),
            "what nodes held that the cluster went on without",
        ),
        (
            shown(places.decisions_path()),
            "what this node decided, and on what evidence",
        ),
        (
            shown(places.history_dir()),
            "updates of the past, with who, when and why",
        ),
        (shown(places.client_socket()), "where clients reach the daemon"),
        (shown(places.control_socket()), "where ccdctl reaches it"),
        (
            shown(places.run_lock_path()),
            "locked by the daemon that has the folder",
        ),
    ]
}

fn lower_first(text: &str) -> String {
    // `CCDLIB` and the like stay as they are.
    let mut characters = text.chars();
    match (characters.next(), text.chars().nth(1)) {
        (Some(first), Some(second)) if !second.is_uppercase() => {
            first.to_lowercase().chain(characters).collect()
        }
        _ => text.to_owned(),
    }
}

fn full_stop(text: &str) -> String {
    let text = text.trim_end();
    if text.ends_with(['.', '?', '!', ')']) {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}

impl Page {
    fn synopsis(&mut self, program: &str, usage: &str) {
        let rest = usage.strip_prefix(program).unwrap_or(usage);
        self.line(vec![bold(program), placeholder(rest)]);
    }

    /// A block of the help: filled, unless its lines are set in, as a table's are.
    fn prose(&mut self, block: &str) {
        let mut filled = String::new();
        let mut kept = String::new();
        for line in block.lines() {
            if line.starts_with("  ") {
                kept += line.strip_prefix("  ").unwrap_or(line);
                kept.push('\n');
            } else {
                if !kept.is_empty() {
                    self.verbatim(&std::mem::take(&mut kept));
                }
                filled.push_str(line);
                filled.push('\n');
                continue;
            }
            if !filled.is_empty() {
                self.paragraph(&std::mem::take(&mut filled));
            }
        }
        if !filled.is_empty() {
            self.paragraph(&filled);
        }
        if !kept.is_empty() {
            self.verbatim(&kept);
        }
    }
}
