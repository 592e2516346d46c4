//! How much memory a proxy may hold for others: what its file says, else a part of what it is allowed.

use std::fmt::{self, Display};
use std::fs;
use std::path::Path;
use std::str::FromStr;

const MIB: u64 = 1 << 20;
/// Where nobody has set a limit.
const USUAL: u64 = 512 * MIB;
/// However much is allowed; more is for those who say so.
const MOST: u64 = 1024 * MIB;
/// With less than this there is no room for a few requests side by side.
const LEAST: u64 = MIB;
/// Where the kernel shows what groups of processes are allowed.
const GROUPS: &str = "/sys/fs/cgroup";

/// A number of bytes, written as Kubernetes quantities or people do: `64Mi`, `64MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no size of memory; write it like 256MiB or 1GiB");
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let unit = match unit {
            "Ki" | "KiB" => 1 << 10,
            "Mi" | "MiB" => MIB,
            "Gi" | "GiB" => 1 << 30,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let bytes = number.checked_mul(unit).ok_or_else(wrong)?;
        if bytes < LEAST {
            return Err(format!(
                "with {text} nothing could be served; write 1MiB or more"
            ));
        }
        Ok(Self(bytes))
    }
}

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = self;
        let units = [(1 << 30, "GiB"), (MIB, "MiB")];
        match units.into_iter().find(|(unit, _)| bytes % unit == 0) {
            Some((unit, name)) => write!(f, "{}{name}", bytes / unit),
            None => write!(f, "{}KiB", bytes >> 10),
        }
    }
}

/// The budget of a process whose file says `written`.
pub(crate) fn budget(written: Option<Size>) -> u64 {
    written.map_or_else(|| part_of(allowed(Path::new(GROUPS))), |Size(bytes)| bytes)
}

/// Half: the other half is for what every process has, and for what the kernel holds of its sockets.
fn part_of(allowed: Option<u64>) -> u64 {
    allowed.map_or(USUAL, |allowed| (allowed / 2).clamp(LEAST, MOST))
}

/// What the group of this process may have, and every group around it (control groups of version 2).
fn allowed(groups: &Path) -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    smallest(groups, Path::new(own))
}

fn smallest(groups: &Path, own: &Path) -> Option<u64> {
    let limit = |group: &Path| {
        let text = fs::read_to_string(groups.join(group).join("memory.max")).ok()?;
        // A group without a limit says `max`.
        text.trim().parse().ok()
    };
    own.ancestors().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes, written) in [
            ("32MiB", 32 * MIB, "32MiB"),
            ("64Mi", 64 * MIB, "64MiB"),
            ("2GiB", 2048 * MIB, "2GiB"),
            ("1536KiB", 1536 << 10, "1536KiB"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size, Size(bytes));
            assert_eq!(size.to_string(), written);
        }
        for text in [
            "",
            "MiB",
            "1",
            "1MB",
            "-1MiB",
            "0MiB",
            "1023KiB",
            "99999999999GiB",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_smallest_limit_around_a_process_counts() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("pods/web");
        fs::create_dir_all(&inner).unwrap();
        let own = Path::new("pods/web");
        let set = |group: &Path, text| fs::write(group.join("memory.max"), text).unwrap();
        assert_eq!(smallest(folder.path(), own), None);
        set(&inner, "max\n");
        assert_eq!(smallest(folder.path(), own), None);
        set(&folder.path().join("pods"), "134217728\n");
        assert_eq!(smallest(folder.path(), own), Some(128 * MIB));
        set(&inner, "67108864\n");
        assert_eq!(smallest(folder.path(), own), Some(64 * MIB));
    }

    #[test]
    fn half_of_it_is_for_others() {
        for (allowed, expect) in [
            (None, USUAL),
            (Some(128 * MIB), 64 * MIB),
            (Some(64 << 30), MOST),
            (Some(0), LEAST),
        ] {
            assert_eq!(part_of(allowed), expect, "{allowed:?}");
        }
    }
}
