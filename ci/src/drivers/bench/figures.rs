//! What one run of one row says.

use serde_json::{Value, json};

use crate::rig::fio::{self, Figures};

/// What a rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Requests per second.
    Requests,
    /// MiB per second.
    Mebibytes,
}

impl Unit {
    /// As tables show it.
    pub fn shown(self) -> &'static str {
        match self {
            Self::Requests => "1/s",
            Self::Mebibytes => "MiB/s",
        }
    }
}

/// One run of one row on one contestant. What was not measured is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run {
    /// In the row's unit.
    pub rate: f64,
    /// Bytes that the client wrote.
    pub written_bytes: u64,
    /// Bytes that the client read.
    pub read_bytes: u64,
    /// The 99th percentile of the latency, of the slowest kind of request that the row sends.
    pub p99_ms: Option<f64>,
    /// The longest latency of a read or write.
    pub longest_ms: Option<f64>,
    /// Resident memory at its highest during the row.
    pub memory_bytes: Option<u64>,
    /// Bytes that the server had its disk write because of the row, for each byte that the client
    /// wrote; in a row that only reads, for each byte that it read.
    pub local_bytes_per_byte: Option<f64>,
    /// The same of what the block device wrote, whoever asked for it.
    pub device_bytes_per_byte: Option<f64>,
    /// Versions of the image that were published during the row.
    pub versions: Option<u64>,
}

impl Run {
    /// A rate that somebody else measured.
    pub fn of_rate(rate: f64) -> Self {
        Self {
            rate,
            ..Self::default()
        }
    }

    /// What fio says of its only job.
    pub fn of_job(job: &Value, unit: Unit) -> Self {
        let sides = ["read", "write"].map(|side| Figures::of(job, side));
        let [read, write] = sides;
        let rate = match unit {
            Unit::Requests => read.requests_per_second + write.requests_per_second,
            Unit::Mebibytes => (read.bytes_per_second + write.bytes_per_second) / (1024.0 * 1024.0),
        };
        // A flush is a request of its own, and what a client waits for longest.
        let p99 = fio::flush_p99_ms(job).unwrap_or(0.0);
        Self {
            rate,
            written_bytes: write.bytes,
            read_bytes: read.bytes,
            p99_ms: Some(p99.max(read.p99_ms).max(write.p99_ms)),
            longest_ms: Some(read.longest_ms.max(write.longest_ms)),
            ..Self::default()
        }
    }

    /// Notes the bytes that the server had its disk write, and those that the device wrote.
    pub fn note_local_bytes(&mut self, server_bytes: u64, device_bytes: Option<u64>) {
        let client_bytes = match self.written_bytes {
            0 => self.read_bytes,
            written => written,
        };
        if client_bytes > 0 {
            let per_byte = |bytes| bytes as f64 / client_bytes as f64;
            self.local_bytes_per_byte = Some(per_byte(server_bytes));
            self.device_bytes_per_byte = device_bytes.map(per_byte);
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "rate": self.rate,
            "written_bytes": self.written_bytes,
            "read_bytes": self.read_bytes,
            "p99_ms": self.p99_ms,
            "longest_ms": self.longest_ms,
            "memory_bytes": self.memory_bytes,
            "local_bytes_per_byte": self.local_bytes_per_byte,
            "device_bytes_per_byte": self.device_bytes_per_byte,
            "versions": self.versions,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job as fio 3.33 describes it, without what nobody reads.
    fn job(read: &Value, write: &Value, flush: &Value) -> Value {
        json!({ "read": read, "write": write, "sync": flush })
    }

    fn side(bytes: u64, per_second: u64, requests: f64, p99_ns: u64, longest_ns: u64) -> Value {
        json!({
            "io_bytes": bytes, "bw_bytes": per_second, "iops": requests,
            "clat_ns": { "max": longest_ns, "percentile": { "99.000000": p99_ns } },
        })
    }

    #[test]
    fn the_json_of_fio_is_read() {
        let idle = json!({
            "io_bytes": 0, "bw_bytes": 0, "iops": 0.0, "clat_ns": { "max": 0, "N": 0 },
        });
        let no_flush = json!({ "total_ios": 0, "lat_ns": { "N": 0 } });
        let flush = json!({
            "total_ios": 9, "lat_ns": { "N": 9, "percentile": { "99.000000": 7_000_000 } },
        });
        let reads = side(4096, 3 << 20, 300.5, 2_000_000, 5_000_000);
        let writes = side(8192, 1 << 20, 100.0, 3_000_000, 4_000_000);
        let check = |read: &Value, write: &Value, flush: &Value, unit, expected: (f64, f64)| {
            let run = Run::of_job(&job(read, write, flush), unit);
            assert_eq!((run.rate, run.p99_ms.expect("a latency")), expected);
        };
        check(&reads, &idle, &no_flush, Unit::Requests, (300.5, 2.0));
        check(&idle, &writes, &no_flush, Unit::Requests, (100.0, 3.0));
        check(&idle, &writes, &flush, Unit::Requests, (100.0, 7.0));
        check(&reads, &writes, &no_flush, Unit::Requests, (400.5, 3.0));
        check(&reads, &writes, &no_flush, Unit::Mebibytes, (4.0, 3.0));
        let run = Run::of_job(&job(&reads, &writes, &flush), Unit::Requests);
        assert_eq!((run.read_bytes, run.written_bytes), (4096, 8192));
        assert_eq!(run.longest_ms, Some(5.0));
    }

    #[test]
    fn local_bytes_are_set_against_what_the_client_moved() {
        let check = |written_bytes, read_bytes, server, device, expected| {
            let mut run = Run {
                written_bytes,
                read_bytes,
                ..Run::default()
            };
            run.note_local_bytes(server, device);
            let seen = (run.local_bytes_per_byte, run.device_bytes_per_byte);
            assert_eq!(seen, expected);
        };
        check(100, 0, 150, Some(200), (Some(1.5), Some(2.0)));
        check(100, 900, 150, None, (Some(1.5), None));
        check(0, 100, 50, Some(0), (Some(0.5), Some(0.0)));
        check(0, 0, 50, Some(50), (None, None));
    }
}
