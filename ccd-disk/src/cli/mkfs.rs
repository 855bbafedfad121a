//! `ccd-disk mkfs`: makes a region, and destroys nothing that it recognises unless that is said by name.

use super::output::Output;
use super::progress::Progress;
use super::{Failure, Global, cluster, exit, open, shared};
use crate::device::{BLOCK_BYTES, Blocks, RawDevice};
use crate::error::RegionError;
use crate::format::geometry::{IMAGE_BYTES_DEFAULT, JOURNAL_BYTES_DEFAULT};
use crate::format::header::RegionId;
use crate::region::recognise::{Content, recognise};
use crate::region::{MkfsOptions, create_in_file, create_with_progress};
use ccd_core::ids::{ClusterId, DeviceRole, NodeId, Replica};
use ccd_core::time::Date;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Make a region on a device or file
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ccd-disk mkfs --role primary /dev/disk/by-id/X
  ccd-disk mkfs --role secondary --cluster-id 0123456789abcdef0123456789abcdef --nodes 2 /dev/loop0
  ccd-disk mkfs --role primary --size 64M /srv/ccd/primary       makes the file

The cluster's id, name and number of nodes come from init.ccd in the --etc folder unless they are
given. A device too small for the cluster's image_mib is refused; --image-mib makes a smaller region
all the same, which bounds the database of the whole cluster. A device that holds a file system, a
partition table, another region and so on is refused; the message says what to add to override.")]
pub struct MkfsArgs {
    /// What the region is to be
    #[arg(long, value_enum)]
    role: Role,
    /// The cluster's id, 32 hexadecimal digits
    #[arg(long, value_parser = parse_id, value_name = "HEX")]
    cluster_id: Option<ClusterId>,
    /// The cluster's name, for people and udev
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<String>,
    /// How many nodes get an area
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32))]
    nodes: Option<u32>,
    /// With --role local: whose copy it is
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(0..32))]
    node: Option<u8>,
    /// Room for a database image, in MiB (default: image_mib of init.ccd; without that 32, or what the device has room for)
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=4000))]
    image_mib: Option<u64>,
    /// Room for the journal, in MiB (default: journal_mib of init.ccd, or 8); an update can be half as large
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1024))]
    journal_mib: Option<u64>,
    /// Size of the file to make if there is none, as 64M or 1G (default: what the region needs)
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    size: Option<u64>,
    /// The region id of the other device, if known
    #[arg(long, value_parser = parse_id, value_name = "HEX")]
    twin: Option<ClusterId>,
    /// Destroy what is there although it was recognised: its name, as the refusal gave it
    #[arg(long, value_name = "WHAT")]
    force: Option<String>,
    /// Device or file
    path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Primary,
    Secondary,
    Local,
}

#[derive(Debug, Serialize)]
struct Made {
    path: String,
    cluster: String,
    region: String,
    role: String,
    nodes: u32,
    len_bytes: u64,
    image_bytes_max: u64,
    journal_bytes: u64,
    written: bool,
}

const MIB: u64 = 1 << 20;

pub fn run(global: &Global, args: &MkfsArgs, output: &mut Output) -> Result<u8, Failure> {
    let (mut options, wanted) = options(global, args)?;
    let path = &args.path;
    let exists = match std::fs::metadata(path) {
        Ok(_) => true,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(RegionError::io("look at", path.display().to_string(), error).into()),
    };
    let (len_bytes, device) = if exists {
        if args.size.is_some() {
            let text = format!(
                "CCD-2080 {} exists; --size is for files that do not",
                path.display()
            );
            return Err(Failure::new(exit::USAGE, text));
        }
        let mut device = open(path, global.access_to_write())?;
        permit(global, args, &mut device)?;
        shared::check(global, path, options.cluster, options.replica)?;
        (device.len_bytes(), Some(device))
    } else {
        if path.starts_with("/dev") {
            let text = format!(
                "CCD-2081 there is no device {}; see `ls -l /dev/disk/by-id`",
                path.display()
            );
            return Err(Failure::new(exit::NO_SUCH_FILE, text));
        }
        let len_bytes = match args.size {
            Some(size) => size / 4096 * 4096,
            None => options.len_bytes()?,
        };
        (len_bytes, None)
    };
    match (args.image_mib, wanted) {
        (None, Some(image_mib)) => {
            refuse_if_too_small(global, args, &options, len_bytes, image_mib)?;
        }
        (None, None) => shrink_to_fit(&mut options, len_bytes, args.journal_mib.is_none()),
        (Some(less), Some(image_mib)) if less < image_mib => global.note(&format!(
            "CCD-2092 this region has room for databases of {less} MiB, and the cluster's image_mib is {image_mib}: no database of \
             the cluster can become larger than what this region holds"
        )),
        (Some(_), _) => {}
    }
    options.geometry(len_bytes / 4096, &path.display().to_string())?;
    if !global.dry_run {
        make(global, args, device, len_bytes, &options)?;
        if !exists {
            // Only now is there a file to be looked at. What is refused leaves none.
            shared::check(global, path, options.cluster, options.replica).inspect_err(|_| {
                if let Err(error) = std::fs::remove_file(path) {
                    global.note(&format!(
                        "{} was made, and cannot be removed: {error}",
                        path.display()
                    ));
                }
            })?;
        }
    }
    let made = Made {
        path: path.display().to_string(),
        cluster: options.cluster.to_string(),
        region: options.region.to_string(),
        role: options.replica.to_string(),
        nodes: options.areas,
        len_bytes,
        image_bytes_max: options.image_bytes_max,
        journal_bytes: options.journal_bytes,
        written: !global.dry_run,
    };
    output.result(&made, |to| {
        let would = if made.written { "made" } else { "would make" };
        writeln!(to, "{would} region {} on {}", made.region, made.path)?;
        writeln!(
            to,
            "  cluster {}, {}, areas for {} nodes",
            made.cluster, made.role, made.nodes
        )?;
        let (image, journal) = (
            made.image_bytes_max as f64 / MIB as f64,
            made.journal_bytes as f64 / MIB as f64,
        );
        writeln!(
            to,
            "  room for databases up to {image:.1} MiB, journals of {journal:.1} MiB"
        )
    })?;
    Ok(exit::DONE)
}

/// Refuses what must not be destroyed by mistake; asks where something unknown would be.
fn permit(global: &Global, args: &MkfsArgs, device: &mut RawDevice) -> Result<(), Failure> {
    let name = device.name();
    let content = recognise(device).map_err(|source| RegionError::io("read", name.clone(), source))?;
    let is_forced = |what: &str| args.force.as_deref() == Some(what);
    match content {
        Content::Nothing => Ok(()),
        Content::Unknown if global.dry_run => Ok(()),
        Content::Unknown => global.confirm(&format!(
            "{name} holds data of an unknown kind, which would be destroyed"
        )),
        Content::Known(what) if is_forced(what) => {
            global.confirm(&format!("{name} holds {what}, which would be destroyed"))
        }
        Content::Known(what) => Err(Failure::new(
            exit::REFUSED,
            format!("CCD-2082 {name} holds {what}; nothing was changed. To destroy it: --force {what:?}"),
        )),
        Content::Region { identity, label } => {
            let cluster = identity.cluster.to_string();
            if is_forced(&cluster) || (!label.is_empty() && is_forced(&label)) {
                return global.confirm(&format!(
                    "{name} is the {} of cluster {label} {cluster}, whose copy of the database would be destroyed",
                    identity.replica
                ));
            }
            let by_name = if label.is_empty() {
                cluster.clone()
            } else {
                label.clone()
            };
            Err(Failure::new(
                exit::EXISTS,
                format!(
                    "CCD-2083 {name} already is a region: the {} of cluster {label} {cluster} (region {}); nothing was changed. \
                     See `ccd-disk show {name}`; to destroy it: --force {by_name}",
                    identity.replica, identity.region
                ),
            ))
        }
    }
}

/// The cluster says how large its database may become, and this device would bound it to less.
fn refuse_if_too_small(
    global: &Global,
    args: &MkfsArgs,
    options: &MkfsOptions,
    len_bytes: u64,
    image_mib: u64,
) -> Result<(), Failure> {
    let needed_bytes = options.len_bytes()?;
    if needed_bytes <= len_bytes {
        return Ok(());
    }
    let mut smaller = options.clone();
    shrink_to_fit(&mut smaller, len_bytes, args.journal_mib.is_none());
    let override_text = if smaller.len_bytes()? <= len_bytes {
        let (image, journal) = (smaller.image_bytes_max / MIB, smaller.journal_bytes / MIB);
        format!(
            ", or make a smaller region all the same with --image-mib {image} --journal-mib {journal}, which bounds the database of \
             the whole cluster to {image} MiB"
        )
    } else {
        String::new()
    };
    Err(Failure::new(
        exit::CANNOT_CREATE,
        format!(
            "CCD-2091 {} is too small: it has {:.1} MiB, and a region for databases of {image_mib} MiB (image_mib in {}) with areas \
             for {} nodes needs {} MiB; nothing was changed. Use a larger device, or a smaller image_mib on all nodes{override_text}",
            args.path.display(),
            len_bytes as f64 / MIB as f64,
            global.etc.join("init.ccd").display(),
            options.areas,
            needed_bytes.div_ceil(MIB),
        ),
    ))
}

/// Makes the region, on the device or in a new file, and shows how far it is if that takes long.
fn make(
    global: &Global,
    args: &MkfsArgs,
    device: Option<RawDevice>,
    len_bytes: u64,
    options: &MkfsOptions,
) -> Result<(), Failure> {
    let mut shown = Progress::of(global, format!("zeroing {}", args.path.display()));
    let block = BLOCK_BYTES as u64;
    let mut progress = |done: u64, total: u64| shown.tell(done * block, Some(total * block));
    let made = match device {
        Some(device) => create_with_progress(Box::new(device), options, &mut progress),
        None => create_in_file(&args.path, len_bytes, options, &mut progress),
    };
    drop(shown);
    made?;
    Ok(())
}

/// What the region is to be, and the `image_mib` of the cluster if its init database can be read.
fn options(global: &Global, args: &MkfsArgs) -> Result<(MkfsOptions, Option<u64>), Failure> {
    let init = cluster::of(global);
    let cluster = match (args.cluster_id, &init) {
        (Some(id), _) => id,
        (None, Ok(init)) => init.id(),
        (None, Err(failure)) => return Err(Failure::new(failure.code, failure.text.clone())),
    };
    // What an init database of another cluster says does not matter.
    let init = init.ok().filter(|init| init.id() == cluster);
    let region = RegionId(random_id()?);
    let mut options = match args.role {
        Role::Local => {
            let Some(node) = args.node.and_then(NodeId::new) else {
                let text = "CCD-2084 --role local needs --node NUMBER: whose copy it is to be";
                return Err(Failure::new(exit::USAGE, text));
            };
            MkfsOptions::local(cluster, region, node)
        }
        Role::Primary | Role::Secondary => {
            if args.node.is_some() {
                return Err(Failure::new(
                    exit::USAGE,
                    "CCD-2085 --node is for --role local; a device has --nodes",
                ));
            }
            let role = if args.role == Role::Primary {
                DeviceRole::Primary
            } else {
                DeviceRole::Secondary
            };
            let highest = init
                .as_ref()
                .and_then(|init| init.nodes().iter().map(|node| node.id.index()).max());
            let nodes = args
                .nodes
                .unwrap_or_else(|| highest.map_or(2, |highest| highest as u32 + 1));
            MkfsOptions::device(cluster, region, Replica::Device(role), nodes)
        }
    };
    let of_cluster = init.as_ref().map(|init| init.options());
    let image_mib = of_cluster.map(|options| u64::from(options.image_mib));
    let journal_mib = of_cluster.map(|options| u64::from(options.journal_mib));
    let in_bytes = |mib: u64| mib * MIB;
    options.image_bytes_max = (args.image_mib.or(image_mib)).map_or(IMAGE_BYTES_DEFAULT, in_bytes);
    options.journal_bytes = (args.journal_mib.or(journal_mib)).map_or(JOURNAL_BYTES_DEFAULT, in_bytes);
    options.twin = args.twin.map(|id| RegionId(id.0));
    let init_name = || init.as_ref().map(|init| init.name().to_owned());
    options.label = args.cluster_name.clone().or_else(init_name).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    options.created = Date(u64::try_from(now.as_millis()).unwrap_or_default());
    Ok((options, image_mib))
}

/// Without `--image-mib`, images get what a smaller device has room for, and without `--journal-mib` the journal, and the room for
/// segments with it, goes down to a quarter of that.
fn shrink_to_fit(options: &mut MkfsOptions, len_bytes: u64, with_journal: bool) {
    while options.image_bytes_max > MIB && options.len_bytes().is_ok_and(|needed| needed > len_bytes) {
        options.image_bytes_max -= MIB;
        if with_journal {
            let quarter = (options.image_bytes_max / 4).next_multiple_of(MIB);
            options.journal_bytes = options.journal_bytes.min(quarter);
        }
    }
}

fn random_id() -> Result<[u8; 16], Failure> {
    let mut id = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut id))
        .map_err(|source| RegionError::io("read", "/dev/urandom".to_owned(), source))?;
    Ok(id)
}

fn parse_id(text: &str) -> Result<ClusterId, String> {
    let wrong = || format!("{text:?} is not 32 hexadecimal digits");
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let number = u128::from_str_radix(text, 16).map_err(|_| wrong())?;
    Ok(ClusterId(number.to_be_bytes()))
}

/// `64M`, `1G`, `1048576`.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size such as 64M or 1G");
    let (digits, shift) = match text.strip_suffix("iB").unwrap_or(text) {
        rest if rest.ends_with(['K', 'k']) => (&rest[..rest.len() - 1], 10),
        rest if rest.ends_with(['M', 'm']) => (&rest[..rest.len() - 1], 20),
        rest if rest.ends_with(['G', 'g']) => (&rest[..rest.len() - 1], 30),
        rest => (rest, 0),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number
        .checked_mul(1 << shift)
        .filter(|size| *size > 0 && *size < 1 << 50)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ids_are_parsed_or_refused() {
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert_eq!(parse_size("8192"), Ok(8192));
        for wrong in ["", "M", "-1", "0", "9999999999999G", "1T", "6 4M"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        let id = parse_id("000102030405060708090a0b0c0d0e0f").unwrap();
        assert_eq!(id.to_string(), "000102030405060708090a0b0c0d0e0f");
        for wrong in [
            "",
            "0",
            "+00102030405060708090a0b0c0d0e0f",
            "zz0102030405060708090a0b0c0d0e0f",
        ] {
            assert!(parse_id(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_small_device_gets_room_for_smaller_images() {
        let replica = Replica::Device(DeviceRole::Primary);
        let mut options = MkfsOptions::device(ClusterId([1; 16]), RegionId([2; 16]), replica, 2);
        shrink_to_fit(&mut options, 64 << 20, true);
        assert!(options.len_bytes().unwrap() <= 64 << 20);
        assert!(options.image_bytes_max >= 10 << 20);
        assert!(options.journal_bytes >= 2 << 20);
        let mut fixed = MkfsOptions::device(ClusterId([1; 16]), RegionId([2; 16]), replica, 2);
        shrink_to_fit(&mut fixed, 64 << 20, false);
        assert_eq!(fixed.journal_bytes, JOURNAL_BYTES_DEFAULT);
        assert!(fixed.len_bytes().unwrap() <= 64 << 20);
        // The whole size for two nodes, which README.md names.
        let mut whole = MkfsOptions::device(ClusterId([1; 16]), RegionId([2; 16]), replica, 2);
        shrink_to_fit(&mut whole, 200 << 20, true);
        assert_eq!(
            (whole.image_bytes_max, whole.journal_bytes),
            (IMAGE_BYTES_DEFAULT, JOURNAL_BYTES_DEFAULT)
        );
    }
}
