//! The catalogue: one stable id for every message, with its exit code, cause, effect and action.
//!
//! Everything that prints an error takes it from here; `ccdadm explain CCD-1101` and the manual page
//! `ccd-messages(7)` print the rest. An id is never used again for something else. 1000 to 1999 belong to the
//! library, ccdadm and ccdctl; 2000 to 2999 to regions, devices and ccd-disk (`messages/regions.rs`).

mod regions;

pub use regions::REGIONS;

use crate::exit::Exit;
use std::fmt;

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: u16,
    pub exit: Exit,
    /// What led to it.
    pub cause: &'static str,
    /// What state things are in now.
    pub effect: &'static str,
    /// What to do next; often a command.
    pub action: &'static str,
}

impl Message {
    /// Whether the same request may succeed a moment later, and repeating it is safe: it changed nothing.
    pub fn is_worth_retrying(&self) -> bool {
        RETRYABLE.iter().any(|retryable| retryable.id == self.id)
    }
}

/// What passes: a daemon that is started again, a takeover, an update under way, a node that was slow.
const RETRYABLE: [&Message; 9] = [
    &DAEMON_NOT_REACHABLE,
    &CONNECTION_LOST,
    &DAEMON_TIMED_OUT,
    &DAEMON_OVERLOADED,
    &NOT_SERVING,
    &NO_QUORUM,
    &BUSY,
    &ROLLED_BACK,
    &TIMED_OUT,
];

/// `CCD-1042`.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CCD-{:04}", self.id)
    }
}

/// The entry with this id, written `CCD-1101`, `ccd-1101` or `1101`.
pub fn find(id: &str) -> Option<&'static Message> {
    let digits = id.strip_prefix("CCD-").or(id.strip_prefix("ccd-")).unwrap_or(id);
    let id: u16 = digits.parse().ok()?;
    every().find(|message| message.id == id)
}

/// All entries, by id.
pub fn every() -> impl Iterator<Item = &'static Message> {
    ALL.iter().chain(REGIONS).copied()
}

macro_rules! catalogue {
    ($($name:ident = $id:literal, $exit:ident, $cause:literal, $effect:literal, $action:literal;)*) => {
        $(pub const $name: Message = Message {
            id: $id,
            exit: Exit::$exit,
            cause: $cause,
            effect: $effect,
            action: $action,
        };)*
        /// Every entry of the library, ccdadm and ccdctl, by id.
        pub const ALL: &[&Message] = &[$(&$name),*];
    };
}

catalogue! {
    USAGE = 1001, Usage,
        "An option, a verb or a value on the command line is wrong.",
        "Nothing was done.",
        "see the examples of --help";
    NOT_CONFIRMED = 1002, Unsafe,
        "The command destroys something, and nobody confirmed it.",
        "Nothing was changed.",
        "give --yes if you mean it";
    WRONG_CLUSTER_NAME = 1003, Unsafe,
        "A command that overrides safety must name the cluster, and named another one or none.",
        "Nothing was changed.",
        "read the name from ccdadm status, and give it with --cluster";
    INTERNAL = 1004, Internal,
        "The program met a state that its authors thought impossible.",
        "The command may have been done or not.",
        "ccdadm status shows the state; please report the message with the command that led to it";

    NO_SUCH_FILE = 1010, NoSuchFile,
        "A file that was named, or that the program needs, does not exist.",
        "Nothing was changed.",
        "check the path; ccdadm setup makes the files in /etc/ccd";
    FILE_NOT_READABLE = 1011, Io,
        "Reading a file failed.",
        "Nothing was changed.",
        "check the file and its file system";
    FILE_NOT_PERMITTED = 1012, NotPermitted,
        "The user who runs the program may not use the file.",
        "Nothing was changed.",
        "run the command as root";
    CANNOT_CREATE = 1013, CannotCreate,
        "A file could not be written completely. What was there before is still there.",
        "No file was changed.",
        "check that the folder exists, may be written and has space";
    FILE_EXISTS = 1014, Exists,
        "A file that would be written exists.",
        "It was left alone.",
        "choose another name, or give --yes to replace it";
    OUTPUT_FAILED = 1015, Io,
        "Writing to standard output failed.",
        "The output is not complete.",
        "check where the output goes";
    FILE_TOO_LARGE = 1016, BadData,
        "A file is larger than anything of its kind can be.",
        "It was not read.",
        "check that it is the right file";
    INIT_IN_USE = 1017, Busy,
        "Somebody else changes the init database at the same time: an editor, or the addition or removal of a node.",
        "It was left as it is.",
        "repeat the command when they have finished";
    EDITOR_FAILED = 1018, Io,
        "The editor could not be started, or ended with an error.",
        "The init database was left as it is.",
        "name an editor with EDITOR, or give the new file with --from";
    INIT_FIXED = 1019, Unsafe,
        "The edit would make another cluster of it, or change which nodes there are.",
        "The init database was left as it is.",
        "ccdctl add-node and remove-node change the nodes; ccdadm setup makes another cluster";

    INIT_BAD = 1020, BadData,
        "A row of the init database is wrong.",
        "Nothing that needs the init database works on this node.",
        "correct the line, on every node alike";
    CLUSTER_EXISTS = 1021, Exists,
        "The folder already holds an init database.",
        "It was left alone.",
        "ccdadm setup --this NAME writes the node file only; --force with the same --cluster replaces the rows and keeps id and key";
    AUTHKEY_BAD = 1022, BadData,
        "The file of keys that nodes prove to each other is not one to four lines of 32 bytes in base64, all different.",
        "A daemon does not start with it; one that runs goes on with the keys that it has.",
        "copy authkey from another node again";
    AUTHKEY_OPEN = 1023, NotPermitted,
        "Others than the owner may read the key that nodes prove to each other.",
        "It may no longer be secret.",
        "chmod 0400 the file; if others had access, make a new key on all nodes";
    NODE_UNKNOWN = 1024, BadData,
        "What says which node this is names no node of the init database, or is not there.",
        "The daemon cannot start here.",
        "ccdadm setup --this NAME, with a name from the NODE rows";
    DEVICE_UNFIT = 1025, BadData,
        "Reservations do not exist on plain files, loop and network block devices.",
        "Nothing was written.",
        "give --fencing lease; nothing then stops a hung or foreign writer";
    SETUP_BAD = 1026, Usage,
        "The options of ccdadm setup do not describe a cluster.",
        "Nothing was written.",
        "ccdadm setup --help has examples";
    AUTHKEY_STEP = 1027, Unsafe,
        "The step does not fit where the rotation of the authkey is: add, promote, drop, each on all nodes.",
        "The file was not changed.",
        "ccdadm authkey list shows where it is, and ccdadm authkey --help the steps";
    NODE_EXISTS = 1028, Exists,
        "A node of this name or number is in the cluster already.",
        "Nothing was changed.",
        "ccdctl members lists the nodes; choose another name, or another number with NUMBER:NAME=ADDRESS";
    NO_SUCH_NODE = 1029, NoSuchKey,
        "The name or number stands for no node of the cluster.",
        "Nothing was changed.",
        "ccdctl members lists the nodes";

    TEXT_BAD = 1030, BadData,
        "A row of a database file breaks the text form or its format.",
        "Nothing was changed.",
        "ccdadm purify FILE lists all such rows, and with --drop writes the file without them";
    TEXT_DAMAGED = 1031, Integrity,
        "Checksum, hash or length of the consistency record do not match the rows before it.",
        "The file was not used.",
        "take another copy; if the rows are known to be right, ccdadm convert makes a new record";
    RECORD_MISSING = 1032, BadData,
        "A database file ends with a consistency record, and this one does not.",
        "The file was not used.",
        "ccdadm convert FILE OUT makes a database file of it";
    NOT_UTF8 = 1033, BadData,
        "The text is not UTF-8.",
        "Nothing was changed.",
        "convert it first: iconv -t UTF-8";
    KEY_BAD = 1034, Usage,
        "A key is a letter followed by letters, digits, '_', '.' and '-'; it does not end in _fmt and is not CCD_CHK.",
        "Nothing was changed.",
        "ccdadm keys lists the keys there are";
    TRANSACTION_BAD = 1035, BadData,
        "A line of a transaction is wrong.",
        "Nothing was changed.",
        "correct the line; ccdadm apply --help describes the form";
    COLUMN_UNKNOWN = 1036, Usage,
        "A pattern names a column that the key does not have.",
        "Nothing was changed.",
        "ccdadm keys lists the columns";
    ROW_BAD = 1037, BadData,
        "A row does not fit the limits of a row: 32 columns, 1,024 characters.",
        "Nothing was changed.",
        "correct it; column names are words as keys are, and what is too long takes several rows";
    ARGUMENT_BAD = 1040, Usage,
        "A program gave the library an argument that cannot be meant: a null pointer, a text without end, too many values, a number out of range.",
        "Nothing was done.",
        "ccd_error_detail() names the argument; ccd(3) and the page of the call say what it takes";
    HANDLE_BAD = 1041, Usage,
        "What a program gave the library is no handle of this process: never attached, detached or freed before, of another kind, or attached before a fork.",
        "Nothing was done.",
        "attach anew, once in each process; detach and free once";

    DAEMON_NOT_REACHABLE = 1101, NoDaemon,
        "No daemon listens on the socket.",
        "Nothing was changed.",
        "systemctl status ccdd, or start it: ccdd run; --run or CCD_RUN names another folder";
    SOCKET_NOT_PERMITTED = 1102, NotPermitted,
        "The user who runs the program may not use the socket.",
        "Nothing was changed.",
        "run the command as root; members of the group ccd may read, and an ACCESS row in init.ccd can grant more";
    CONNECTION_LOST = 1103, NoDaemon,
        "The daemon closed the connection before it answered.",
        "A question was not answered; an update was not sent, or was asked for again until the time-out.",
        "ccdadm status; then repeat the command";
    OTHER_PROTOCOL = 1104, NoDaemon,
        "The daemon speaks another version of the client protocol, or something else listens on the socket.",
        "Nothing was changed.",
        "use the programs of the daemon's version: ccdd --version";
    DAEMON_TIMED_OUT = 1105, TimedOut,
        "The daemon did not answer in time.",
        "A question was not answered; an update was not sent.",
        "ccdadm status; a longer --timeout may help";
    DAEMON_FAULT = 1106, Internal,
        "The daemon met an error of its own.",
        "The request was not done.",
        "ccdadm why, and the daemon's log: journalctl -u ccdd";
    DAEMON_OVERLOADED = 1107, Busy,
        "The daemon has as many requests waiting as it takes, or is stopping.",
        "Nothing was changed.",
        "repeat the command in a moment";
    ANSWER_TOO_LARGE = 1108, BadData,
        "The answer is larger than the client protocol carries.",
        "Nothing was changed.",
        "ask for less: one key, or a pattern";
    NOT_PERMITTED = 1109, NotPermitted,
        "The user may not do this: neither the group ccd nor an ACCESS row of init.ccd grants it.",
        "Nothing was changed.",
        "run the command as root, or have root add the ACCESS row that the message names";
    REQUEST_TOO_LARGE = 1110, BadData,
        "A transaction has more operations or bytes than one update can have.",
        "Nothing was changed.",
        "split it: ccdadm apply several smaller files; ccdadm restore takes a whole database of any size that image_mib allows";
    TOO_MANY_WATCHERS = 1120, Busy,
        "There are as many watchers on this node, or of this user on it, as there may be.",
        "Nothing is watched.",
        "end some, or watch several keys with one watcher; ss -xp | grep ccdd.sock shows who is connected";

    LARGER_THAN_REPLICAS = 1150, CannotCreate,
        "A restore is larger than the database that this cluster's replicas can hold (option image_mib).",
        "Nothing was changed.",
        "ccdadm restore --key restores one key; else make room: a larger image_mib on all nodes, with new local copies and devices";
    REQUEST_REUSED = 1152, BadData,
        "An update came under a request id under which another one was applied.",
        "Nothing was changed. ccdadm why on the master names the user and the program.",
        "give each update an id of its own: an empty request of ccd_transact gets a new one, Client::new_request makes one";
    FOREIGN_CHECKPOINT = 1153, BadData,
        "The file to be restored was saved by another cluster.",
        "Nothing was changed.",
        "make sure that it is the right file: ccdadm diff FILE now; then ccdadm restore --force FILE";

    NOT_SERVING = 1201, NotServing,
        "The node has no configuration that it may serve.",
        "Nothing was changed. Queries with --stale still answer from the local copy.",
        "ccdadm status says what is missing, ccdadm why how it came to that";
    NO_QUORUM = 1202, NoQuorum,
        "The voters that this node can reach may not decide.",
        "Nothing was changed.",
        "bring back a node or device that ccdadm status names";
    BUSY = 1203, Busy,
        "An update is in progress, and --no-wait was given.",
        "Nothing was changed.",
        "repeat the command, or leave out --no-wait";
    ROLLED_BACK = 1204, No,
        "A node refused the update or failed during it.",
        "Every node is back where it was before.",
        "remove the reason given, then repeat the command";
    TIMED_OUT = 1205, TimedOut,
        "The request was not started within its time-out.",
        "Nothing was changed.",
        "ccdadm status; a longer --timeout may help";
    UNKNOWN = 1206, Unknown,
        "The server was lost while the update was under way.",
        "The update is in the database or will never be; a query shows which.",
        "ccdadm query for what you changed; repeating the command is safe only if it is not there";
    UNSAFE = 1207, Unsafe,
        "It could lose updates or let two nodes write.",
        "Nothing was changed.",
        "do what the message asks for first";
    FULL = 1208, CannotCreate,
        "The database would no longer fit into the image or journal of a replica.",
        "Nothing was changed.",
        "remove rows; a larger image needs a larger region: ccd-disk show, ccd-disk mkfs --help";
    UNDECIDED = 1209, Unknown,
        "What was asked for was put to the vote, and the outcome was not known in time.",
        "It may have been decided, or still be.",
        "ccdadm status and ccdctl members show whether it is so; asking again does no harm";
    NO_SUCH_KEY = 1210, NoSuchKey,
        "No format defines the key.",
        "Nothing was changed.",
        "ccdadm keys lists the keys; ccdadm format defines one";
    NO_SUCH_ROW = 1211, NoSuchKey,
        "No row matches.",
        "Nothing was changed.",
        "ccdadm query KEY shows the rows there are";
    EXISTS = 1212, Exists,
        "The row, or the key with another format, is there already.",
        "Nothing was changed.",
        "ccdadm query KEY shows it";
    UPDATE_WRONG = 1213, BadData,
        "The update breaks a format or a limit.",
        "Nothing was changed.",
        "ccdadm keys shows the formats";
    PRECONDITION = 1214, No,
        "A precondition of the transaction does not hold.",
        "Nothing was changed.",
        "read the current state, then decide anew";

    KEY_NOT_EMPTY = 1215, Unsafe,
        "A key can only be removed when it has no rows.",
        "Nothing was changed.",
        "ccdadm remove KEY first, if the rows are to go";
    VETOED = 1216, No,
        "The synchronization command of a key that the update changes did not agree, on the node that is named; what follows is \
         what it wrote to standard error.",
        "Nothing was changed; the command has run as post_rollback wherever it was begun.",
        "remove the reason given; --no-sync runs no commands, and ccdadm sync-command show lists them";
    COMMAND_TIMED_OUT = 1217, TimedOut,
        "The synchronization command of a key that the update changes did not end in time, and was killed.",
        "Nothing was changed; the command has run as post_rollback wherever it was begun.",
        "a longer --timeout, if it needs more time than the request had; else the option sync_timeout_ms, or --no-sync";
    COMMAND_NAME_BAD = 1218, BadData,
        "A synchronization command is named by a letter or digit and then letters, digits, '_', '.' and '-', and never by a path.",
        "Nothing was changed.",
        "put it into /etc/ccd/sync.d on every node, and give its name there";

    NOT_KEPT = 1220, NoSuchKey,
        "The node that was asked does not keep that part of the past, or no branch of that name.",
        "Nothing was changed.",
        "ccdadm history and ccdadm branches list what there is; another node may keep it: ask there";

    VERIFY_SILENT = 1301, No,
        "A member did not say what its copy holds in time.",
        "The other copies agree.",
        "ccdadm status; then ccdadm verify again";
    VERIFY_STALE = 1302, Stale,
        "The copies stand at different positions.",
        "A copy is older than another, or has diverged from it.",
        "ccdadm status, ccdadm why; an update in between looks the same: verify again";
    VERIFY_DIFFERS = 1303, Integrity,
        "Copies of the same position do not hold the same.",
        "One of them is damaged.",
        "ccdadm verify replaces those that most others contradict; ccdadm why on the node says how far it came";
    IMAGE_DAMAGED = 1304, Integrity,
        "The database that the daemon sent does not decode.",
        "Nothing was changed.",
        "ccdadm verify";
    PURIFY_FOUND = 1305, No,
        "Rows break their format.",
        "They are still there.",
        "repeat with --drop to remove them";
    VERIFY_REPAIRED = 1306, No,
        "A copy was inconsistent: it was not what its record or most other copies said.",
        "It was replaced by a sound one; what it held is kept aside on its node.",
        "find out what damaged it: memory, disk or a program; ccdadm why on that node";
    DRILL_WEAK = 1310, No,
        "The drill found something that would not be survived, or could not be shown.",
        "The cluster serves; what was found is in the list above.",
        "bring back what is missing (ccdadm status), then ccdadm drill again";
    DRILL_UNPROTECTED = 1311, Unsafe,
        "A device took the write of a node that was not registered there.",
        "Reservations do not protect this device from a writer that is hung or wrong; votes and leases still do.",
        "check the target's settings for persistent reservations; else ccdadm setup --fencing lease for a new cluster";
    WATCH_TIMED_OUT = 1320, TimedOut,
        "A watch had a number of changes to wait for, and not so many came within its time-out.",
        "Those that came were printed.",
        "a longer --timeout; --from goes on behind the last one that was printed";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_ascend_and_every_entry_says_cause_effect_and_action() {
        assert!(ALL.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert!(ALL.iter().all(|message| (1000..2000).contains(&message.id)));
        assert!(REGIONS.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert!(REGIONS.iter().all(|message| (2000..3000).contains(&message.id)));
        for message in every() {
            assert_ne!(message.exit, Exit::Done, "{message} is an error");
            for text in [message.cause, message.effect, message.action] {
                assert!(text.len() > 8, "{message}: {text:?}");
            }
            assert!(
                !message.action.ends_with('.'),
                "{message}: it is printed after 'try:'"
            );
        }
    }

    #[test]
    fn an_entry_is_found_by_its_id() {
        assert_eq!(find("CCD-1101"), Some(&DAEMON_NOT_REACHABLE));
        assert_eq!(find("1101"), Some(&DAEMON_NOT_REACHABLE));
        assert_eq!(find("CCD-9"), None);
        assert_eq!(find("x"), None);
        assert_eq!(DAEMON_NOT_REACHABLE.to_string(), "CCD-1101");
    }
}
