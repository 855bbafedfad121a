//! Messages of regions, devices and ccd-disk. That package prints their texts itself, with what failed and on what; here is
//! what `ccdadm explain` and `ccd-messages(7)` add. A test of ccd-node compares the ids.

use super::Message;
use crate::exit::Exit;

macro_rules! entries {
    ($($id:literal, $exit:ident, $cause:literal, $effect:literal, $action:literal;)*) => {
        /// Every entry, by id. Where a failure can have several exit codes, the usual one.
        pub const REGIONS: &[&Message] = &[
            $(&Message { id: $id, exit: Exit::$exit, cause: $cause, effect: $effect, action: $action },)*
        ];
    };
}

entries! {
    2001, Io,
        "A device or file could not be opened, read or written.",
        "Nothing more was done there.",
        "do what the message says: check the path, its cables and dmesg; free some room; or mount it for writing again";
    2002, Busy,
        "Another program holds the region, most likely the daemon; or the device is mounted, or part of another one.",
        "Nothing was changed.",
        "do what the message says of its holder; stop ccdd on every node that uses the device; ccd-disk show looks at it while it runs";
    2003, Fenced,
        "The device refused a write, because this node is not registered there any more: another node fenced it.",
        "This node writes nothing there.",
        "ccdadm status and ccdadm why say who took over; the node rejoins by itself";
    2004, Io,
        "A write or flush failed before, so what is on the device is not known.",
        "Nothing more is written until it was opened anew and read.",
        "check the device and dmesg; the daemon opens it again by itself";
    2010, BadData,
        "Neither end of the device or file holds the label of a region.",
        "Nothing was changed.",
        "check the path; ccd-disk mkfs makes a region";
    2011, BadData,
        "The region belongs to another cluster.",
        "It is not used.",
        "check the path with ccd-disk show, and the DEVICE rows of init.ccd";
    2012, BadData,
        "The device is the other one of its cluster.",
        "It is not used.",
        "exchange the paths in the DEVICE rows of init.ccd";
    2013, BadData,
        "The region was made for fewer nodes than the cluster has.",
        "It is not used by this node.",
        "make it anew with ccd-disk mkfs --nodes";
    2014, BadData,
        "The region was made by a later version, in a form that this one does not know.",
        "It is not used.",
        "use that version";
    2015, Integrity,
        "The device or file is shorter than the region that was made on it.",
        "It is not used.",
        "restore its size, or make the region anew: it is filled by a full copy";
    2016, BadData,
        "The region was made by an earlier version, in a form that is not read any more.",
        "It is not used, and nothing in it is changed.",
        "save its database with that version (ccd-disk dump), make the region anew, and restore";
    2017, Integrity,
        "The device in use is not the region any more that was opened: both superblocks were overwritten, or its name leads to another device.",
        "It is not used, and is opened anew by its name; the cluster goes on without it.",
        "ccd-disk show on the path; ccd-disk mkfs if it was overwritten (then find out by what), or put the name right";
    2020, Integrity,
        "An area of the region does not hold what was written there.",
        "That area is not used; others are.",
        "ccd-disk check says what is damaged; a full copy heals it: restart the daemon, or mkfs and resync";
    2021, Stale,
        "A record or configuration does not follow what the area holds.",
        "It was not written.",
        "ccdadm why; please report it, for the daemon asks for the right one";
    2022, Io,
        "Two runs of one node claim a device at the same time (a copy of its machine runs, or a second ccdd), or an earlier write of this run landed late.",
        "Nothing was written over the other one's vote.",
        "if it comes again: find the other one (ccdadm status and ccdadm why name its host), and stop it";
    2030, CannotCreate,
        "The database is larger than the image areas of the region.",
        "It was not written there.",
        "remove rows, or make a larger region: ccd-disk mkfs --help";
    2031, CannotCreate,
        "One update is larger than the journal of the region takes.",
        "It was not written there.",
        "split the update, or make the region with a larger journal";
    2032, CannotCreate,
        "The journal has no room until a checkpoint is complete.",
        "The record was not written; the daemon writes the checkpoint and repeats it.",
        "none is needed unless it stays: then ccd-disk check";
    2033, CannotCreate,
        "A record continues one that found no room in the journal.",
        "It was not written; the daemon writes a checkpoint and goes on behind it.",
        "none is needed";
    2040, CannotCreate,
        "A region could not be made.",
        "The device or file holds no whole region.",
        "check path, permissions and space, then mkfs again";
    2041, BadData,
        "A branch is kept beside a local copy only, not on a device.",
        "Nothing was kept.",
        "name the local copy";
    2050, Io,
        "What this node held and the cluster goes on without could not be kept aside.",
        "The node does not take the other copy before it could, and an override is not begun.",
        "make room in the state folder";
    2051, Io,
        "The replica is not open: opening it failed the last time.",
        "Nothing was read or written.",
        "ccdadm status names the cause; the daemon tries again by itself";
    2060, BadData,
        "A partition, file, loop or network block device has no reservations that keep others from exactly this region.",
        "Nothing was changed.",
        "use a whole SCSI, multipath or NVMe disk, or a cluster with --fencing lease";
    2061, Io,
        "A device, or one of its paths, could not be opened for reservations.",
        "Nothing was changed.",
        "check the path and its name in /dev/disk/by-id";
    2062, Unknown,
        "What is registered on the device could not be read back.",
        "A change may have been made or not.",
        "ccd-disk fence status with the device; check its paths and dmesg";
    2063, Io,
        "No path of the device works.",
        "Nothing was tried.",
        "check cables, sessions and dmesg";
    2064, Unsafe,
        "The step would do something else than it says: fence this node itself, or nobody.",
        "Nothing was changed.",
        "ccd-disk fence status shows who is registered";
    2070, Io,
        "Writing to standard output failed.",
        "The output is not complete.",
        "check where the output goes";
    2071, Unsafe,
        "The command destroys or changes something, and there is no terminal to ask on.",
        "Nothing was changed.",
        "give --yes if you mean it";
    2072, Unsafe,
        "The question was not answered with yes.",
        "Nothing was changed.",
        "repeat the command and type yes, or give --yes";
    2073, Usage,
        "An option, a verb or a value on the command line of ccd-disk is wrong.",
        "Nothing was done.",
        "see the examples of --help";
    2080, Usage,
        "A size was given for a file or device that exists.",
        "Nothing was changed.",
        "leave out --size, or choose a name that is free";
    2081, NoSuchFile,
        "A path below /dev names no device.",
        "Nothing was made there.",
        "ls -l /dev/disk/by-id lists the disks";
    2082, Unsafe,
        "The device holds a file system, a partition table, a volume or something else that is recognised.",
        "Nothing was changed.",
        "check the path; --force with what it holds destroys it";
    2083, Exists,
        "The device already is a region.",
        "Nothing was changed.",
        "ccd-disk show says whose; --force with the name of its cluster destroys it";
    2084, Usage,
        "A local copy belongs to one node, and none was named.",
        "Nothing was changed.",
        "give --node NUMBER";
    2085, Usage,
        "A device belongs to all nodes, and one was named.",
        "Nothing was changed.",
        "leave out --node, or give --role local";
    2086, BadData,
        "The init database is missing or wrong.",
        "Nothing was changed.",
        "ccdadm setup makes it; --etc names another folder";
    2087, Unsafe,
        "Primary and secondary are the same disk under two names.",
        "Nothing was changed.",
        "compare ls -l /dev/disk/by-id, and correct the DEVICE rows";
    2088, Unsafe,
        "A partition would be fenced with the whole disk.",
        "Nothing was changed.",
        "use a whole disk, or a cluster with --fencing lease";
    2089, Unsafe,
        "The device took a write that its reservations should have refused.",
        "Nothing was made.",
        "ask its maker, or use a cluster with --fencing lease";
    2090, No,
        "The region, or the area that was named, holds no database yet, or none that is whole.",
        "Nothing was printed.",
        "ccd-disk show lists the areas, ccd-disk check what is damaged";
    2091, CannotCreate,
        "The device is too small for what the database of the cluster may become, by image_mib of the init database.",
        "Nothing was changed.",
        "use a larger device, or a smaller image_mib on all nodes; --image-mib makes a smaller region all the same";
    2092, CannotCreate,
        "The region was made smaller than image_mib of the init database asks for, by --image-mib.",
        "It is made. The cluster admits no update with which the database would outgrow it.",
        "make it anew without --image-mib, on a device that is large enough";
    2100, Usage,
        "The same path was given twice.",
        "Nothing was measured.",
        "name two different paths";
    2101, Usage,
        "Of two paths to measure one exists and the other does not.",
        "Nothing was measured.",
        "give two regions, or two names for scratch files";
    2102, Io,
        "A thread that measured ended early.",
        "There is no result.",
        "dmesg; then repeat it";
    2110, Io,
        "Heartbeats on the device could not be read a second time, so whether a node is alive is not known.",
        "Nothing was changed.",
        "check its paths and dmesg";
    2111, NoSuchFile,
        "The cluster has no devices, and none was named.",
        "Nothing was done.",
        "name a device; ccd-disk fence status --help has examples";
    2112, Exists,
        "This node is registered on the device already.",
        "Nothing was changed.",
        "none is needed; a daemon that runs with this key would lose it";
    2113, Unsafe,
        "The node to be fenced is this server's own.",
        "Nothing was changed.",
        "name another, or stop the daemon here";
    2114, No,
        "Nobody is registered on the device.",
        "There was nothing to clear.",
        "none is needed";
    2115, Unsafe,
        "The device belongs to another cluster than the one that was named.",
        "Nothing was changed.",
        "check the path; ccd-disk show says whose it is";
    2116, Unsafe,
        "It could take a device from a node that uses it.",
        "Nothing was changed.",
        "ccd-disk fence status first; --force with the cluster's name if it is meant";
    2117, No,
        "Some paths of the device did not take the registration.",
        "It is registered on the others.",
        "check these paths, then register again";
    2118, Fenced,
        "Somebody took this server's own key away meanwhile.",
        "This server cannot write to the device.",
        "ccd-disk fence status; it registers again when it joins";
    2119, Io,
        "The target did not do what it was asked for.",
        "What is registered is what fence status shows.",
        "the log above, dmesg, ccd-disk fence status";
    2120, Usage,
        "A key is written as 0x and hexadecimal digits.",
        "Nothing was changed.",
        "ccd-disk fence status lists the keys";
    2121, No,
        "The node or key is not registered on the device.",
        "Nothing was changed.",
        "ccd-disk fence status lists who is";
    2122, Usage,
        "No node has that number or name.",
        "Nothing was changed.",
        "give its number, or its name if init.ccd is there";
    2123, Usage,
        "Which node this server is, is written nowhere.",
        "Nothing was changed.",
        "give --node NAME; ccdadm setup --this NAME writes it down";
    2124, BadData,
        "The device is no region and there is no init database, so there is no key to register.",
        "Nothing was changed.",
        "ccdadm setup makes an init database; --etc names its folder";
    2125, Io,
        "The kernel gave no random bytes.",
        "Nothing was changed.",
        "check /dev/urandom";
    2130, Busy,
        "A daemon runs, here or on another node, and may use the devices.",
        "Nothing that counts was changed.",
        "ccdadm status: the daemon brings devices back by itself; or stop ccdd on all nodes";
    2131, Unsafe,
        "The two devices are not primary and secondary of one cluster.",
        "Nothing was changed.",
        "ccd-disk show with each of them; correct the DEVICE rows of init.ccd";
    2133, Unsafe,
        "Whether what the good device holds is the newest cannot be told without the other voters.",
        "The device was not changed.",
        "systemctl start ccdd: it decides by a vote, and brings the device back by itself";
    2134, Stale,
        "The device that was to be written is the newer one of the two.",
        "Nothing was changed.",
        "ccd-disk resync with the other device, if that is the stale one";
    2135, Stale,
        "The device holds updates that the other one went on without, after an override.",
        "Nothing was changed.",
        "start ccdd, which keeps them aside; or save them with ccd-disk dump and make the region anew";
    2136, Integrity,
        "The device to copy from is damaged, or the other one is where only other nodes write.",
        "Nothing was changed.",
        "ccd-disk check says what; start ccdd on all nodes";
    2137, Usage,
        "No init database says which device is the twin of this one.",
        "Nothing was changed.",
        "give --from PATH, or the folder of init.ccd with --etc";
    2138, BadData,
        "The device to be brought up to date holds no region.",
        "Nothing was changed.",
        "make one with ccd-disk mkfs, then repeat it";
    2139, Io,
        "The device does not hold what was just written to it.",
        "It is not to be relied on.",
        "check its cables, its paths and dmesg, then repeat it";
    2140, Usage,
        "The local copy in the state folder belongs to another node than the one that was named.",
        "Nothing was changed.",
        "check --node and --state";
}
