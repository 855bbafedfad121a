//! ccd-init(5): the init database and the text form of databases. Rows, options and limits come from the tables that the
//! daemon checks, and the examples are made or read by its code.

use super::page::{Page, placeholder};
use ccd_core::database::{COLUMNS_MAX, ROW_CHARACTERS_MAX, convert_text};
use ccd_core::init::{ADDRESSES_MAX, NAME_CHARS_MAX, OPTIONS, RESERVED, WORD_OPTIONS};
use ccd_core::time::Date;
use clap_mangen::roff::{bold, roman};

/// An init database of a pair.
const EXAMPLE: &str = "\
# prod: two servers, two networks, two disks
CLUSTER:prod:0123456789abcdef0123456789abcdef
NODE:0:alpha
NODE:1:beta
ADDRESS:alpha:10.0.0.1:
ADDRESS:alpha:fd00%3A%3A1:5650
ADDRESS:beta:10.0.0.2:
ADDRESS:beta:fd00%3A%3A2:5650
DEVICE:primary:/dev/ccd/prod/primary
DEVICE:secondary:/dev/ccd/prod/secondary
OPTION:lease_ms:2000
ACCESS:write:@balancer:BACKEND*
RACK_fmt:node:room:rack
RACK:alpha:cellar:4
RACK:beta:attic:1
";

/// Fig. 6 of the specification, before it has its record.
const DATABASE: &str = "\
MY_KEY_fmt:clustname:number_nodes:network_type:node_names
MY_KEY:clust0:4:sci:foo,bar,moo,boo
MY_KEY:clust1:2:eth:fd00%3A%3A1
";

/// Apr 16 1997, 09:49:47, as in that figure.
const EXAMPLE_DATE: Date = Date(861_184_187_000);

pub fn page() -> Page {
    let mut page = Page::new("ccd-init", 5, "init database and database files of ccd");
    page.heading("DESCRIPTION");
    page.text(&format!(
        "The init database, `/etc/ccd/init.ccd`, holds what a node must know before anything runs: which nodes and devices \
         there are, and options. It is the same on every node; nodes compare a digest of it when they meet, and comments do not \
         count. `ccdadm setup` writes it, `ccdadm edit-init` changes it and checks the change, `ccdctl add-node` and \
         `remove-node` change its nodes on all nodes at once, and `ccdadm query --static` and the library's \
         `ccd_query_static`(3) read it with nothing running.\n\n\
         It is a text with one row a line: a key, then the row's values after colons. In a value a colon is written `%3A`, a \
         percent sign `%25`, and control characters the same way. Lines that begin with `#` are comments. A row has at most \
         {COLUMNS_MAX} columns and {ROW_CHARACTERS_MAX} characters, a name of a cluster or node at most {NAME_CHARS_MAX}.",
    ));
    page.heading("ROWS");
    for (key, columns) in RESERVED {
        let term = vec![bold(key), roman(":"), placeholder(&columns.join(":"))];
        page.tagged(term, &about_row(key));
    }
    page.paragraph(
        "Other keys are yours. Each needs a format row `KEY_fmt:column:column` before its first row, and its rows have exactly \
         these columns. They are read by `ccdadm query --static` while nothing runs, on each node alike.",
    );
    page.heading("OPTIONS");
    page.text("An unknown option, and a value out of range, are refused. `ccdadm edit-init --options` lists what is set.");
    for option in &OPTIONS {
        let term = vec![
            bold(option.name),
            roman(format!(
                " ({} to {}, default {})",
                option.min, option.max, option.default
            )),
        ];
        page.tagged(term, &sentence(option.about));
    }
    for option in &WORD_OPTIONS {
        let term = vec![bold(option.name), roman(format!(" ({})", option.words))];
        page.tagged(term, &sentence(option.about));
    }
    page.heading("DATABASE FILES");
    page.text(
        "`ccdadm checkpoint` and `convert` write, and `restore` reads, the whole database in the same text form. Rows of a key \
         stand together after its format row, and the last line is the consistency record:",
    );
    let columns = [
        "date",
        "generation",
        "length",
        "restore",
        "members",
        "checksum",
        "digest",
        "epoch.lineage",
    ];
    page.verbatim(&format!("CCD_CHK:{}", columns.join(":")));
    for (column, what) in [
        (
            "date",
            "of the last update, such as `Apr 16 09h49m47 1997`; it is never compared",
        ),
        ("generation", "number of the last update"),
        ("length", "bytes of everything before the record"),
        (
            "restore",
            "`4` if all nodes were active at the last restore, `3` if not: all must then be active once before the cluster \
             restarts unattended",
        ),
        (
            "members",
            "numbers of the nodes that took part in the last update",
        ),
        ("checksum", "sum of the bytes before the record"),
        ("digest", "BLAKE3 of the same bytes, in hexadecimal"),
        ("epoch.lineage", "where the copy stands"),
    ] {
        page.entry(column, &sentence(what));
    }
    page.paragraph(
        "A record without its last two columns is accepted, too. A file whose record does not match is refused; \
         `ccdadm convert` makes a new record, and `ccdadm purify` lists and drops rows that break their format.",
    );
    page.heading("EXAMPLES");
    page.text("An init database:");
    page.verbatim(EXAMPLE);
    page.paragraph("A database file:");
    page.verbatim(&database_file());
    page.heading("FILES");
    for (path, what) in super::programs::files(&ccd_client::Places::standard()) {
        page.entry(&path, &sentence(what));
    }
    page.heading("NOTES");
    page.text(&format!(
        "A node has at most {ADDRESSES_MAX} addresses. The `DEVICE` rows may name the links that udev makes from the \
         regions' own labels, `/dev/ccd/CLUSTER/primary` and `secondary`."
    ));
    page.see_also(&[
        "ccdadm-setup(1)",
        "ccdadm-edit-init(1)",
        "ccdctl-add-node(1)",
        "ccd_query(3)",
        "ccd(7)",
        "ccdd(8)",
    ]);
    page
}

fn database_file() -> String {
    convert_text(DATABASE.as_bytes(), EXAMPLE_DATE).expect("the example is well-formed")
}

fn about_row(key: &str) -> String {
    let about = match key {
        "CLUSTER" => {
            "The cluster's name, and its id of 32 hexadecimal digits, which `ccdadm setup` draws. Exactly one."
        }
        "NODE" => {
            "A node's number, from 0 to 31, its name, and the id of the server that the number was given to: 16 hexadecimal digits, which \
             `ccdadm setup` and `ccdctl add-node` draw. The id tells a server that was removed from one that got its number later; it may be \
             left out. The lowest-numbered node that takes part is the master."
        }
        "ADDRESS" => {
            "Where a node listens for the others; the port may be empty. Several rows of a node are several networks, in order \
             of preference."
        }
        "DEVICE" => {
            "The path of the `primary` or the `secondary` device; a single one is the primary. Without devices, more than half of \
             the nodes are needed."
        }
        "OPTION" => "See OPTIONS.",
        "ACCESS" => {
            "Grants a right, `read`, `write` or `admin` (each has those before it), to a user's name or number, a group as `@GROUP`, or \
             everybody as `*`, for the keys that match, with `*` for any run of characters. Root may do everything, and the group \
             `ccd` may read."
        }
        other => unreachable!("the row {other} has a text"),
    };
    about.to_owned()
}

fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first: String = characters
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .collect();
    format!("{first}{}.", characters.as_str().trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::database::{ParsedText, RecordCheck};
    use ccd_core::init::ClusterInit;

    #[test]
    fn the_examples_are_accepted() {
        let init = ClusterInit::parse(EXAMPLE).expect("the daemon would start with it");
        assert_eq!(init.options().lease.as_millis(), 2000);
        let parsed =
            ParsedText::parse(database_file().as_bytes(), RecordCheck::Verify).expect("it can be restored");
        assert!(parsed.record.is_some());
        assert_eq!(parsed.content.rows.len(), 2);
    }

    #[test]
    fn every_row_and_option_is_described() {
        let source = page().source();
        for (key, _) in RESERVED {
            assert!(source.contains(&format!("\\fB{key}\\fR:")), "{key}");
        }
        for option in &OPTIONS {
            let term = format!(
                "\\fB{}\\fR ({} to {}, default {})",
                option.name, option.min, option.max, option.default
            );
            assert!(source.contains(&term), "{term}");
        }
        for option in &WORD_OPTIONS {
            assert!(
                source.contains(&format!("\\fB{}\\fR (", option.name)),
                "{}",
                option.name
            );
        }
    }
}
