//! `ccd-pages DIR`: writes manual pages, completions and JSON Schemas below DIR, which is a prefix's `share`. Run when the programs are
//! installed or packaged; see `ccd_node::pages`.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(share), None) = (args.next().map(PathBuf::from), args.next()) else {
        eprintln!(
            "usage: ccd-pages DIR, such as /usr/share: writes manual pages, completions and JSON Schemas below it"
        );
        return ccd_client::Exit::Usage.into();
    };
    match ccd_node::pages::write(&share) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ccd-pages: cannot write below {}: {error}", share.display());
            ccd_client::Exit::CannotCreate.into()
        }
    }
}
