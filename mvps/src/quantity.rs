//! Sizes, spans of time, addresses and levels of compression as an operator types them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use mvps_core::env::Address;

/// A number of bytes: `4096`, `64KiB`, `10GiB`, `10G` (binary, as in qemu), `10GB` (decimal).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Suffixes in lower case, and what they multiply by.
const SIZE_SUFFIXES: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("p", 1 << 50),
    ("pib", 1 << 50),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("pb", 1_000_000_000_000_000),
];

/// Suffixes of spans of time, in milliseconds.
const SPAN_SUFFIXES: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

fn parse_with(text: &str, suffixes: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let suffix = suffix.trim_start().to_ascii_lowercase();
    let (_, factor) = suffixes.iter().find(|(name, _)| *name == suffix)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_with(text, SIZE_SUFFIXES).map(Self).ok_or_else(|| {
            "not a size: write a whole number of bytes, or like 512MiB, 10GiB".into()
        })
    }
}

impl fmt::Display for ByteSize {
    /// In the largest binary unit that it is a whole number of; else to one digit, as `~1.4 GiB`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let (mut unit, mut whole, mut tenths, mut exact) = (0, self.0, 0, true);
        while whole >= 1024 && unit + 1 < UNITS.len() {
            exact &= whole % 1024 == 0;
            tenths = (whole % 1024) * 10 / 1024;
            whole /= 1024;
            unit += 1;
        }
        let name = UNITS[unit];
        if exact {
            write!(formatter, "{whole} {name}")
        } else {
            write!(formatter, "~{whole}.{tenths} {name}")
        }
    }
}

/// Parses `1500ms`, `90s`, `15m`, `12h` or `30d`.
///
/// # Errors
/// A sentence for the operator.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    parse_with(text, SPAN_SUFFIXES)
        .map(Duration::from_millis)
        .ok_or_else(|| "not a span of time: write like 90s, 15m, 12h or 30d".into())
}

/// Parses `host:port`, `[v6]:port` or `unix:/path`.
///
/// # Errors
/// A sentence for the operator.
pub fn parse_address(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() {
            Err("a path is missing: write unix:/path/to/socket".into())
        } else {
            Ok(Address::Unix(path.into()))
        };
    }
    let wrong = || "not an address: write host:port or unix:/path".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    port.parse::<u16>().map_err(|_| wrong())?;
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || bare_v6 {
        return Err(wrong());
    }
    Ok(Address::Tcp(text.to_owned()))
}

/// How segments are compressed: `off`, `zstd` or `zstd:LEVEL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression(pub Option<i32>);

/// zstd's level if none is named.
const COMPRESSION_LEVEL: i32 = mvps_core::engine::publisher::COMPRESSION_LEVEL;

/// zstd's highest level. Its levels below 1 save little that level 1 does not.
const COMPRESSION_LEVEL_MAX: i32 = 22;

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("write off, zstd or zstd:LEVEL (1 to {COMPRESSION_LEVEL_MAX})");
        match text.split_once(':') {
            None if text == "off" => Ok(Self(None)),
            None if text == "zstd" => Ok(Self(Some(COMPRESSION_LEVEL))),
            Some(("zstd", level)) => {
                let level: i32 = level.parse().map_err(|_| wrong())?;
                let known = (1..=COMPRESSION_LEVEL_MAX).contains(&level);
                known.then_some(Self(Some(level))).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression() {
        let check = |text: &str, expected: Option<Option<i32>>| {
            let parsed = text.parse::<Compression>().ok();
            assert_eq!(parsed.map(|found| found.0), expected, "{text}");
        };
        check("off", Some(None));
        check("zstd", Some(Some(COMPRESSION_LEVEL)));
        check("zstd:1", Some(Some(1)));
        check("zstd:22", Some(Some(22)));
        for wrong in [
            "", "on", "none", "zstd:", "zstd:0", "zstd:23", "zstd:-1", "zstd:1:2", "lz4", "off:1",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(
                text.parse::<ByteSize>().ok().map(|size| size.0),
                expected,
                "{text:?}"
            );
        };
        check("0", Some(0));
        check("4096", Some(4096));
        check("4KiB", Some(4096));
        check("10GiB", Some(10 << 30));
        check("10 GiB", Some(10 << 30));
        check("10gib", Some(10 << 30));
        check("10G", Some(10 << 30));
        check("10GB", Some(10_000_000_000));
        check("16777215TiB", Some(16_777_215 << 40));
        check("16777216TiB", None);
        check("", None);
        check("GiB", None);
        check("-1", None);
        check("1.5GiB", None);
        check("10GiBs", None);
        check("１０", None);
        check("99999999999999999999999", None);
    }

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        let check = |bytes: u64, expected: &str| {
            assert_eq!(ByteSize(bytes).to_string(), expected);
        };
        check(0, "0 bytes");
        check(1023, "1023 bytes");
        check(4096, "4 KiB");
        check(10 << 30, "10 GiB");
        check((3 << 20) / 2, "~1.5 MiB");
        check((1 << 30) + 1, "~1.0 GiB");
        check(u64::MAX, "~16383.9 PiB");
    }

    #[test]
    fn spans() {
        let check = |text: &str, expected_ms: Option<u64>| {
            assert_eq!(
                parse_span(text).ok(),
                expected_ms.map(Duration::from_millis),
                "{text:?}"
            );
        };
        check("250ms", Some(250));
        check("90s", Some(90_000));
        check("15m", Some(900_000));
        check("30d", Some(2_592_000_000));
        check("30", None);
        check("d", None);
        check("", None);
    }

    #[test]
    fn addresses() {
        let check = |text: &str, expected: Option<Address>| {
            assert_eq!(parse_address(text).ok(), expected, "{text:?}");
        };
        let tcp = |text: &str| Some(Address::Tcp(text.to_owned()));
        check("127.0.0.1:10809", tcp("127.0.0.1:10809"));
        check("localhost:0", tcp("localhost:0"));
        check("[::1]:10809", tcp("[::1]:10809"));
        check(
            "unix:/run/mvps.sock",
            Some(Address::Unix("/run/mvps.sock".into())),
        );
        check("unix:", None);
        check("::1:10809", None);
        check("localhost", None);
        check(":10809", None);
        check("localhost:99999", None);
    }
}
