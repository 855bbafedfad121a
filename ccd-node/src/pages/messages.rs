//! ccd-messages(7): the catalogue that `ccdadm explain` prints.

use super::page::Page;
use ccd_client::messages::{self, Message};
use clap_mangen::roff::{bold, roman};

pub fn page() -> Page {
    let mut page = Page::new("ccd-messages", 7, "what the messages of ccd mean, and what to do");
    page.heading("DESCRIPTION");
    page.text(
        "Every error of the programs has an id that stays. It is printed before what failed and why, and the next command to \
         try after it. `ccdadm explain` prints the same as this page, for one message or all.\n\n\
         The exit status is that of the program; where several are possible, the one that is usual. It is the same for the same \
         kind of failure everywhere, see `ccdadm`(1).",
    );
    page.heading("PROGRAMS AND LIBRARY");
    for message in messages::ALL {
        entry(&mut page, message);
    }
    page.heading("REGIONS AND DEVICES");
    for message in messages::REGIONS {
        entry(&mut page, message);
    }
    page.see_also(&["ccdadm(1)", "ccdctl(1)", "ccd-disk(1)", "ccd(3)", "ccd(7)"]);
    page
}

fn entry(page: &mut Page, message: &Message) {
    let term = vec![
        bold(message.to_string()),
        roman(format!(" (exit status {})", message.exit.code())),
    ];
    let Message {
        cause,
        effect,
        action,
        ..
    } = message;
    page.tagged(
        term,
        &format!("{cause}\n\n`Effect:` {effect}\n\n`Action:` {action}."),
    );
}
