//! What to measure, and whether that can be measured here.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::production::{CHECKPOINT_INTERVAL, GENERATION_BYTES, LARGEST_BUFFER_BYTES};

/// Bytes in a GiB.
const GIB: u64 = 1 << 30;

/// The smallest region: twice the largest buffer, also where a table uses a quarter of it.
const REGION_MIN_BYTES: u64 = 2 * LARGEST_BUFFER_BYTES * QUARTERS;

/// The tables behind a distance, and of uploads, use one part of so many of the region.
pub const QUARTERS: u64 = 4;

/// What a row must pass so that its figure is about more than a buffer that fills.
pub const GENERATIONS_MIN: u64 = 3;

/// What a row may write in a second, at the most, when the room on the disk is reckoned.
const FASTEST_BYTES_PER_SECOND: u64 = GIB;

/// What stays free for everybody else.
const ROOM_LEFT_BYTES: u64 = 2 * GIB;

/// What to measure, where, and for how long.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The part of the disks that rows read and write, such as 4g; at least 2g without --smoke.
    #[arg(long, default_value = "4g", value_name = "SIZE", value_parser = parse_bytes)]
    pub region: u64,
    /// How often each row is measured, the contestants in turns; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Seconds of each run of a row; rows that write run on until generations have passed.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// Measure only what has this in its name, such as `local/`, `randread` or `behind/restarted`.
    #[arg(long, value_name = "PATTERN")]
    pub only: Option<String>,
    /// Milliseconds of a round trip to the far S3 server; 0 leaves its table out.
    #[arg(long, default_value_t = 20)]
    pub behind_ms: u64,
    /// Seconds of the sustained writes; 0 leaves them out.
    #[arg(long, default_value_t = 120)]
    pub sustained_seconds: u64,
    /// Where disks, buffers and objects go while this runs; the folder of temporary files by
    /// default.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Write every run of every row to this file, too.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Take any region, and no more time than asked for: shows that the bench runs, measures
    /// nothing.
    #[arg(long)]
    pub smoke: bool,
}

impl Options {
    /// Refuses what would be measured inside a buffer.
    ///
    /// # Errors
    /// If the region is too small.
    pub fn check(&self) -> Result<()> {
        let mib = |bytes| bytes >> 20;
        ensure!(
            self.smoke || self.region >= REGION_MIN_BYTES,
            "a region of {} MiB is too small: a quarter of it must be twice the memory cache and \
             twice a generation ({} MiB each), so at least {} MiB; --smoke takes any, and measures \
             nothing",
            mib(self.region),
            mib(LARGEST_BUFFER_BYTES),
            mib(REGION_MIN_BYTES)
        );
        ensure!(
            self.region >= QUARTERS << 20 && self.region.is_multiple_of(QUARTERS << 20),
            "a region is a multiple of {QUARTERS} MiB"
        );
        Ok(())
    }

    /// The part of the region that some tables use.
    pub fn quarter(&self) -> u64 {
        self.region / QUARTERS
    }

    /// Whether `name` is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|pattern| name.contains(pattern))
    }

    /// How long a row that writes runs when it writes `bytes_per_second`.
    pub fn seconds_of_writing(&self, bytes_per_second: f64) -> u64 {
        match self.smoke {
            true => self.seconds,
            false => long_enough(self.seconds, bytes_per_second),
        }
    }

    /// The room that the tables take at the most: disks of two contestants, what waits in the
    /// buffer, and what one row writes before the collector runs.
    pub fn room_bytes(&self) -> u64 {
        let buffer = self.region.max(2 * GENERATION_BYTES);
        3 * self.region + buffer + self.row_bytes() + ROOM_LEFT_BYTES
    }

    /// What one row may write.
    pub fn row_bytes(&self) -> u64 {
        self.seconds * FASTEST_BYTES_PER_SECOND
    }
}

/// The seconds in which [`GENERATIONS_MIN`] generations are written, or in which as many are
/// sealed because of the time if that is sooner; at least `asked`.
fn long_enough(asked: u64, bytes_per_second: f64) -> u64 {
    // A row is slower than the seconds from which its rate was taken: a quarter more than needed.
    let bytes = (GENERATIONS_MIN * GENERATION_BYTES) as f64 * 1.25;
    let by_bytes = (bytes / bytes_per_second).ceil();
    let by_time = GENERATIONS_MIN * CHECKPOINT_INTERVAL.as_secs() + 10;
    match by_bytes < by_time as f64 {
        true => asked.max(by_bytes as u64),
        // Also for no rate at all.
        false => asked.max(by_time),
    }
}

/// Refuses to begin `what` with less than `needed` of `free` bytes.
///
/// # Errors
/// If there is less.
pub fn check_room(what: &str, free: u64, needed: u64) -> Result<()> {
    let gib = |bytes: u64| bytes as f64 / GIB as f64;
    ensure!(
        free >= needed,
        "the disk has too little room for {what}: {:.1} GiB are free, {:.1} GiB may be needed; \
         choose another folder (--dir), a smaller region or fewer seconds",
        gib(free),
        gib(needed)
    );
    Ok(())
}

/// `512m`, `4g` or a number of bytes.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|end: char| !end.is_ascii_digit());
    let shift = match &lower[digits.len()..] {
        "" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(format!("{text}: a size is written like 512m or 4g")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text}: a size is written like 512m or 4g"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text}: too large"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Line::try_parse_from(line.split_whitespace())
            .expect("parses")
            .options
    }

    #[test]
    fn sizes() {
        let check = |text, expected| assert_eq!(parse_bytes(text).ok(), expected, "{text}");
        check("4g", Some(4 << 30));
        check("4GiB", Some(4 << 30));
        check("512M", Some(512 << 20));
        check("64k", Some(64 << 10));
        check("4096", Some(4096));
        check("1t", Some(1 << 40));
        check("", None);
        check("g", None);
        check("4x", None);
        check("4.5g", None);
        check("99999999t", None);
    }

    #[test]
    fn a_region_inside_a_buffer_is_refused_unless_nothing_is_measured() {
        let check = |line: &str, expected: Option<&str>| {
            let refused = options(line).check().err().map(|error| error.to_string());
            match expected {
                None => assert_eq!(refused, None, "{line}"),
                Some(part) => assert!(refused.is_some_and(|text| text.contains(part)), "{line}"),
            }
        };
        check("bench", None);
        check("bench --region 2g", None);
        check("bench --region 1g", Some("at least 2048 MiB"));
        check("bench --region 64m", Some("--smoke takes any"));
        check("bench --region 64m --smoke", None);
        check("bench --region 64k --smoke", Some("multiple of 4 MiB"));
        check("bench --region 4097m", Some("multiple of 4 MiB"));
    }

    #[test]
    fn writing_rows_run_until_generations_have_passed() {
        let mib = |count: f64| count * 1024.0 * 1024.0;
        let check = |asked, rate, expected| {
            assert_eq!(
                long_enough(asked, rate),
                expected,
                "{asked} s, {rate} bytes/s"
            );
        };
        // Three generations and a quarter more are 960 MiB.
        check(20, mib(500.0), 20);
        check(20, mib(48.0), 20);
        check(20, mib(40.0), 24);
        check(1, mib(960.0), 1);
        // Slower than a generation a minute: the timer seals.
        check(20, mib(3.0), 190);
        check(20, 0.0, 190);
        check(300, mib(3.0), 300);
        let smoke = options("bench --smoke --seconds 1");
        assert_eq!(smoke.seconds_of_writing(0.0), 1);
    }

    #[test]
    fn names_are_chosen_by_what_is_in_them() {
        let check = |line: &str, name: &str, expected| {
            assert_eq!(options(line).wants(name), expected, "{line}: {name}");
        };
        check("bench", "local/fill", true);
        check("bench --only local/", "local/fill", true);
        check("bench --only local/", "s3/fill", false);
        check("bench --only qd32", "s3/randread4k-qd32", true);
    }

    #[test]
    fn a_full_disk_is_refused() {
        assert!(check_room("the tables", 10, 10).is_ok());
        let refused = check_room("the tables", GIB, 3 * GIB).expect_err("too little");
        let text = refused.to_string();
        assert!(text.contains("1.0 GiB are free, 3.0 GiB"), "{text}");
    }
}
