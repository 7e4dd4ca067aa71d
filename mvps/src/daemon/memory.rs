//! Resident memory of this process, where the system tells (`/proc/self/status`).

/// Bytes of resident memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResidentMemory {
    /// Now.
    pub now_bytes: u64,
    /// The most so far.
    pub peak_bytes: u64,
}

impl ResidentMemory {
    /// Asks the system.
    #[must_use]
    pub fn read() -> Option<Self> {
        parse(&std::fs::read_to_string("/proc/self/status").ok()?)
    }
}

fn parse(status: &str) -> Option<ResidentMemory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib = line
            .trim()
            .strip_suffix(" kB")?
            .trim_end()
            .parse::<u64>()
            .ok()?;
        kib.checked_mul(1024)
    };
    Some(ResidentMemory {
        now_bytes: field("VmRSS:")?,
        peak_bytes: field("VmHWM:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read() {
        let status = "Name:\tmvps\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\nThreads:\t4\n";
        let expected = ResidentMemory {
            now_bytes: 10 << 20,
            peak_bytes: 20 << 20,
        };
        assert_eq!(parse(status), Some(expected));
        assert_eq!(parse("VmRSS: lots"), None);
    }
}
