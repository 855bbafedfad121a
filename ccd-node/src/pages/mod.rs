//! Manual pages, completions and JSON Schemas, from the definitions that the programs themselves use. Called by `ccd-pages`, which
//! `systemd/install.sh` and packages run; nothing of it is part of the daemon.
//!
//! ```text
//! page.rs       one page while it is written
//! programs.rs   sections 1 and 8: a page for each program and each verb, from the command lines
//! init.rs       ccd-init(5): rows and options from the tables that the daemon checks; database files
//! messages.rs   ccd-messages(7): the catalogue that `ccdadm explain` prints
//! overview.rs   ccd(7)
//! schemas.rs    JSON Schemas of what --json prints, from docs/json.md
//! ```
//!
//! The pages of section 3 are written by hand, in `ccd-client/c/man`.

mod init;
mod messages;
mod overview;
mod page;
mod programs;
mod schemas;

pub use schemas::{Schema, all as schemas};

use clap_complete::Shell;
use page::Page;
use std::io;
use std::path::Path;

/// Every page: file name and source.
pub fn manual() -> Vec<(String, String)> {
    let mut pages: Vec<Page> = commands()
        .into_iter()
        .flat_map(|(section, command)| programs::pages(command, section))
        .collect();
    pages.extend([init::page(), messages::page(), overview::page()]);
    let pages = pages.into_iter();
    pages
        .map(|page| (page.file_name.clone(), page.source()))
        .collect()
}

/// The programs, with the section of their pages.
pub fn commands() -> [(u8, clap::Command); 4] {
    [
        (1, ccd_client::cli::ccdadm::command()),
        (1, ccd_client::cli::ccdctl::command()),
        (1, ccd_disk::cli::command()),
        (8, crate::cli::command()),
    ]
}

/// Where shells look for completions, below the prefix's `share`.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions"),
    (Shell::Zsh, "zsh/site-functions"),
    (Shell::Fish, "fish/vendor_completions.d"),
];

/// Writes manual pages, completions and `ccd/schemas` below a folder, which is a prefix's `share`.
///
/// # Errors
/// A file that cannot be written.
pub fn write(share: &Path) -> io::Result<()> {
    for (name, text) in manual() {
        let section = name.rsplit_once('.').map_or("", |(_, section)| section);
        let folder = share.join("man").join(format!("man{section}"));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), text)?;
    }
    let folder = share.join("ccd/schemas");
    std::fs::create_dir_all(&folder)?;
    for schema in schemas::all() {
        let text = format!("{:#}\n", schema.schema);
        std::fs::write(folder.join(schema.file_name()), text)?;
    }
    for (shell, folder) in COMPLETIONS {
        let folder = share.join(folder);
        std::fs::create_dir_all(&folder)?;
        for (_, mut command) in commands() {
            let name = command.get_name().to_owned();
            clap_complete::generate_to(shell, &mut command, name, &folder)?;
        }
    }
    Ok(())
}
