//! ccd(7): what there is, and where it is described.

use super::page::Page;

pub fn page() -> Page {
    let mut page = Page::new("ccd", 7, "highly-available cluster configuration database");
    page.heading("DESCRIPTION");
    page.text(
        "ccd holds the little configuration that the services of a cluster share: it is the same on every node, survives either \
         node and either disk of a pair, and never silently goes back in time. Each node has a full copy and answers queries from \
         it; an update is acknowledged when it is durable on every active node.\n\n\
         When one node of a pair is left, it goes on alone (`solo`) and writes to a region that is mirrored on two shared \
         devices, from which it may be restarted alone. When both are there (`paired`) the devices are not needed. Clusters \
         without shared devices need more than half of their nodes.\n\n\
         Which nodes and devices may go on is decided by votes among those of the last configuration; every such decision is \
         recorded with its evidence, and `ccdadm why` prints it.",
    );
    page.heading("PROGRAMS");
    for (name, what) in [
        ("ccdd(8)", "the daemon, one on each node"),
        (
            "ccdadm(1)",
            "rows, updates, checkpoints, history, status: the administrator's program",
        ),
        (
            "ccdctl(1)",
            "which nodes take part; also for an external membership monitor",
        ),
        (
            "ccd-disk(1)",
            "one region, on a device or a file, with no daemon needed",
        ),
    ] {
        page.entry(name, what);
    }
    page.heading("WORDS");
    for (word, what) in [
        ("node", "A server, numbered 0 to 31."),
        (
            "device",
            "One of the two shared block devices of a pair: the primary and the secondary.",
        ),
        (
            "region",
            "What is stored on a device, or in the file that is a node's local copy.",
        ),
        (
            "key, row",
            "The database is a list of keys. Each has named columns and rows, such as `MY_KEY:clust0:4:sci:foo,bar`.",
        ),
        (
            "epoch",
            "Number of a reconfiguration that opened the database for writing.",
        ),
        ("generation", "Number of an update."),
        (
            "lineage",
            "A hash over all updates. Equal generation and lineage mean equal content; a copy whose lineage is no beginning of \
             another's has diverged from it.",
        ),
        (
            "configuration",
            "What the cluster last agreed on: epoch, mode, members, voters, which devices are in sync.",
        ),
        (
            "lease",
            "The promise of the others to wait. A node whose lease has run out answers no query and takes no update.",
        ),
        (
            "master",
            "The node that orders the updates: the lowest-numbered one unless `ccdctl master` names another.",
        ),
    ] {
        page.entry(word, what);
    }
    page.heading("FIRST STEPS");
    page.verbatim(
        "ccdadm setup --cluster prod --node alpha=10.0.0.1 --node beta=10.0.0.2 \\\n       \
         --primary /dev/disk/by-id/X --secondary /dev/disk/by-id/Y --this alpha\n\
         ccd-disk mkfs --role primary /dev/disk/by-id/X\n\
         ccd-disk mkfs --role secondary /dev/disk/by-id/Y\n\
         systemctl enable --now ccdd\n\
         ccdadm status",
    );
    page.paragraph(
        "The init database and the authkey are copied to the other node, and the daemon is started there, too. \
         `ccdd demo` shows a whole cluster at work on files, without root.",
    );
    page.see_also(&[
        "ccdadm(1)",
        "ccdctl(1)",
        "ccd-disk(1)",
        "ccd(3)",
        "ccd-init(5)",
        "ccd-messages(7)",
        "ccdd(8)",
    ]);
    page
}
