//! What the machine, or the control group that this process runs in, has to share. Shell: reads
//! files of the kernel.

use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Memory that this process may use, in bytes: that of the machine, or less if a control group
/// (version 1 or 2) says so. `None` when the kernel tells neither.
#[must_use]
pub fn memory() -> Option<u64> {
    memory_below(Path::new("/"))
}

/// Files that a process needs beside the connections that it serves: those that it dials, listens
/// at, logs to.
const FILES_OF_ITS_OWN: u64 = 128;

/// Connections that this process can serve, at most as many as wanted: each is an open file. Raises
/// how many it may have as far as it is allowed to.
#[must_use]
pub fn connections_max(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    // Without permission it stays as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    wanted.min(usize::try_from(files.saturating_sub(FILES_OF_ITS_OWN)).unwrap_or(wanted).max(1))
}

fn memory_below(root: &Path) -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let machine = read("proc/meminfo").and_then(|text| memory_total(&text));
    let groups = read("proc/self/cgroup").unwrap_or_default();
    let limits = groups.lines().flat_map(limit_files).filter_map(|file| limit(&read(&file)?));
    machine.into_iter().chain(limits).min()
}

/// The line `MemTotal:  16384 kB`.
fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Where the limits of a group stand, its own and those of every group above it. A line names a
/// hierarchy, its controllers and the group: `0::/a/b` in version 2, `7:memory:/a/b` in version 1.
fn limit_files(line: &str) -> Vec<String> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
        return Vec::new();
    };
    let (base, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        _ if controllers.split(',').any(|it| it == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return Vec::new(),
    };
    // In a container the mount shows the group itself at its root, whatever the path says.
    let groups = Path::new(group.trim_start_matches('/')).ancestors();
    groups.map(|group| Path::new(base).join(group).join(file).display().to_string()).collect()
}

/// A number of bytes; `max` and what version 1 writes for "none" are no limits.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 62)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:    1000 kB\nMemFree: 1 kB\n");

    fn found(files: &[(&str, &str)]) -> Option<u64> {
        memory_below(root(&[&[MEMINFO], files].concat()).path())
    }

    #[test]
    fn without_groups_it_is_the_memory_of_the_machine() {
        assert_eq!(found(&[]), Some(1_024_000));
        assert_eq!(memory_below(root(&[]).path()), None);
    }

    #[test]
    fn the_tightest_group_on_the_way_up_counts_in_version_2() {
        let group = ("proc/self/cgroup", "0::/a/b\n");
        let own = ("sys/fs/cgroup/a/b/memory.max", "max\n");
        let above = ("sys/fs/cgroup/a/memory.max", "5000\n");
        assert_eq!(found(&[group, own, above]), Some(5000));
        assert_eq!(found(&[group, own]), Some(1_024_000));
    }

    #[test]
    fn the_memory_controller_counts_in_version_1() {
        let group = ("proc/self/cgroup", "8:cpu,cpuacct:/x\n7:memory:/a\n");
        let own = ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "6000\n");
        let none = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(found(&[group, own, none]), Some(6000));
        assert_eq!(found(&[group, none]), Some(1_024_000));
    }

    #[test]
    fn a_group_seen_from_inside_its_container_is_found_at_the_root() {
        let group = ("proc/self/cgroup", "0::/system.slice/x.scope\n");
        assert_eq!(found(&[group, ("sys/fs/cgroup/memory.max", "7000\n")]), Some(7000));
    }

    #[test]
    fn connections_are_bounded_by_what_is_wanted_and_by_files() {
        assert_eq!(connections_max(1), 1);
        let most = connections_max(usize::MAX);
        let files = getrlimit(Resource::Nofile);
        assert_eq!(files.current, files.maximum, "the limit was raised");
        assert!(files.current.is_none_or(|files| (most as u64) < files), "{most} of {files:?}");
    }

    #[test]
    fn this_machine_has_some() {
        assert!(memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
