//! What the kernel says of this process: memory, descriptors, processor time. Read from /proc when it is asked for.

use std::fs;

/// As far as /proc is there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    pub resident_bytes: Option<u64>,
    pub open_fds: Option<u64>,
    pub cpu_seconds: Option<f64>,
    pub threads: Option<u64>,
}

impl Process {
    pub fn look() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let parameter = |variable| {
            let value = nix::unistd::sysconf(variable).ok().flatten();
            value.and_then(|value| u64::try_from(value).ok())
        };
        let page_bytes = parameter(nix::unistd::SysconfVar::PAGE_SIZE);
        let ticks = parameter(nix::unistd::SysconfVar::CLK_TCK);
        let (cpu_ticks, threads) = of_stat(&stat).unzip();
        Self {
            resident_bytes: resident_pages(&statm)
                .zip(page_bytes)
                .map(|(pages, bytes)| pages * bytes),
            // The one through which they are counted is not counted.
            open_fds: (fs::read_dir("/proc/self/fd").ok())
                .map(|entries| (entries.count() as u64).saturating_sub(1)),
            cpu_seconds: cpu_ticks
                .zip(ticks)
                .map(|(used, a_second)| used as f64 / a_second.max(1) as f64),
            threads,
        }
    }
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split(' ').nth(1)?.parse().ok()
}

/// Ticks of the processor, and threads. The name of the program, in brackets, may hold anything.
fn of_stat(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((number(11)? + number(12)?, number(17)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read_whatever_the_program_is_called() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 7 0 1234 5 6";
        assert_eq!(of_stat(stat), Some((175, 7)));
        assert_eq!(of_stat("42 (x"), None);
        assert_eq!(resident_pages("1000 250 30 1 0 99 0"), Some(250));
        assert_eq!(resident_pages(""), None);
        let process = Process::look();
        assert!(process.resident_bytes > Some(1 << 16), "{process:?}");
        assert!(
            process.open_fds > Some(2) && process.threads >= Some(1),
            "{process:?}"
        );
    }
}
