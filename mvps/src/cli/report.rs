//! Reports for people.

use std::fmt::Write as _;

use mvps_core::admin::ImageReport;

use crate::control::{DiskCacheReport, Health, HeldUpReport, ImageReport as OpenImage, NodeReport};
use crate::quantity::ByteSize;

/// What a server does.
#[must_use]
pub fn node(node: &NodeReport) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<14}{value}");
    };
    let uptime = span(node.uptime_ms / 1000);
    line(
        "server",
        format!(
            "mvps {}, process {}, up {uptime}",
            node.server_version, node.pid
        ),
    );
    line("listens on", node.listen.join(", "));
    line("images in", node.image_store.clone());
    line("buffers in", node.buffer_store_path.clone());
    if let (Some(now), Some(peak)) = (node.rss_bytes, node.rss_peak_bytes) {
        line(
            "memory",
            format!("{}, at most {}", ByteSize(now), ByteSize(peak)),
        );
    }
    let store = &node.object_store;
    line(
        "object store",
        format!(
            "{} requests ({} of them retried), {} sent, {} received",
            store.requests,
            store.failed,
            ByteSize(store.sent_bytes),
            ByteSize(store.received_bytes)
        ),
    );
    let used = store.operations.iter();
    let used: Vec<_> = used
        .map(|(operation, count)| format!("{operation} {count}"))
        .collect();
    if !used.is_empty() {
        line("", used.join(", "));
    }
    let caches = &node.caches;
    line(
        "frames read",
        format!(
            "{} from memory ({}), {} from the local disk, {} from the object store",
            caches.frames_from_memory,
            ByteSize(caches.memory_bytes),
            caches.frames_from_disk,
            caches.frames_from_store
        ),
    );
    line("disk cache", disk_cache(caches.disk.as_ref()));
    if !node.images_busy.is_empty() {
        line(
            "busy",
            format!("{} (being opened or closed)", node.images_busy.join(", ")),
        );
    }
    if node.images.is_empty() {
        line("images", "none is open".to_owned());
    }
    node.images
        .iter()
        .for_each(|open| open_image(&mut text, open));
    text
}

fn disk_cache(disk: Option<&DiskCacheReport>) -> String {
    let Some(disk) = disk else {
        return "none".to_owned();
    };
    format!(
        "{} of {} in {} entries; {} found, {} not, {} damaged, {} evicted, {} not kept",
        ByteSize(disk.bytes),
        ByteSize(disk.limit_bytes),
        disk.entries,
        disk.hits,
        disk.misses,
        disk.damaged,
        disk.evicted,
        disk.dropped
    )
}

fn open_image(text: &mut String, image: &OpenImage) {
    let health = match image.health {
        Health::Healthy => "healthy",
        Health::Fenced => "FENCED",
        Health::Poisoned => "POISONED",
    };
    let reason = image
        .reason
        .as_ref()
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    let cleaning = match image.space.cleaning_segments {
        0 => String::new(),
        segments => {
            let left = ByteSize(image.space.cleaning_left_bytes);
            format!("; cleaning {segments} of them, {left} left to copy")
        }
    };
    let _ = write!(
        text,
        "\n{name}\n  {health}{reason}\n  \
         size          {size}, pages of {page}\n  \
         commits       LSN {lsn}, synced to {flushed}\n  \
         published     version {version} with LSN {published}\n  \
         buffered      {buffered} ({disk} on disk), {generations} generations wait{publishing}\n  \
         stored        {stored}, {dead} of it dead, {segments} segments{cleaning}\n  \
         connections   {connections}, {transactions} transactions, {stalled} writes wait{held_up}\n  \
         tenure        {tenure}\n",
        name = image.image,
        size = ByteSize(image.size_bytes),
        page = ByteSize(image.page_size_bytes),
        lsn = image.lsn,
        flushed = image.flushed_lsn,
        version = image.published_version,
        published = image.published_lsn,
        buffered = ByteSize(image.buffered_bytes),
        disk = ByteSize(image.buffer_disk_bytes),
        generations = image.generations_waiting,
        publishing = if image.publishing { ", publishing" } else { "" },
        stored = ByteSize(image.space.stored_bytes),
        dead = ByteSize(image.space.dead_bytes),
        segments = image.space.segments,
        transactions = image.transactions,
        stalled = image.stalled,
        held_up = image.held_up.as_ref().map(held_up).unwrap_or_default(),
        connections = image.connections,
        tenure = image.tenure,
    );
}

fn held_up(held_up: &HeldUpReport) -> String {
    let seconds = held_up.held_ms / 1000;
    format!(", held up by {} for {seconds} s", held_up.by)
}

/// What an image's newest manifest says.
#[must_use]
pub fn image(image: &ImageReport) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12}{value}");
    };
    line("image", image.image.clone());
    line(
        "size",
        format!(
            "{} ({} bytes)",
            ByteSize(image.size_bytes),
            image.size_bytes
        ),
    );
    line("page size", ByteSize(image.page_size_bytes).to_string());
    line("state", state(image));
    line("epoch", format!("{}, tenure {}", image.epoch, image.tenure));
    line(
        "version",
        format!(
            "{} with LSN {}, published {}; kept from version {}",
            image.version,
            image.lsn,
            utc(image.published_at_unix_ms),
            image.oldest_retained_version
        ),
    );
    line(
        "stored",
        format!(
            "{} in {} segments and {} map objects; {} objects wait for their last readers",
            ByteSize(image.stored_bytes),
            image.segments,
            image.map_objects,
            image.retired_objects
        ),
    );
    for snapshot in &image.snapshots {
        let made = utc(snapshot.created_at_unix_ms);
        line(
            "snapshot",
            format!(
                "{}: version {}, made {made}",
                snapshot.name, snapshot.version
            ),
        );
    }
    for pin in &image.pins {
        let kept = match (pin.version, pin.objects) {
            (Some(version), _) => format!("version {version}"),
            (None, objects) => format!("{} objects", objects.unwrap_or(0)),
        };
        line("pin", format!("{} keeps {kept}", pin.holder));
    }
    if let Some(root_key) = &image.root_key {
        line("encrypted", format!("under root key {root_key}"));
    }
    if !image.other_root_keys.is_empty() {
        line(
            "shares with",
            format!("images under {}", image.other_root_keys.join(", ")),
        );
    }
    for takeover in &image.takeovers {
        line(
            "takeover",
            format!(
                "from epoch {}, back to LSN {}, {}",
                takeover.from_epoch,
                takeover.at_lsn,
                utc(takeover.at_unix_ms)
            ),
        );
    }
    text
}

/// Who writes the image, or why nobody does.
#[must_use]
pub fn state(image: &ImageReport) -> String {
    match (image.state, image.owner.as_str()) {
        ("active", "") => "active writer: a server that did not name itself".to_owned(),
        ("active", owner) => format!("active writer: {owner}"),
        ("clean", _) => "clean: any server may open it".to_owned(),
        (other, _) => other.to_owned(),
    }
}

/// `3d 4h`, `4h 5m`, `5m 6s` or `6s`.
fn span(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let first = units
        .iter()
        .position(|(unit, _)| seconds >= *unit)
        .unwrap_or(units.len() - 1);
    let shown = units
        .iter()
        .enumerate()
        .skip(first)
        .take(2)
        .map(|(at, (unit, name))| {
            let above = if at == first {
                seconds
            } else {
                seconds % units[first].0
            };
            format!("{}{name}", above / unit)
        });
    shown.collect::<Vec<_>>().join(" ")
}

/// `2026-11-22 17:15:10 UTC`.
pub(super) fn utc(unix_ms: u64) -> String {
    let (days, seconds) = (unix_ms / 86_400_000, unix_ms / 1000 % 86_400);
    // Years of 365.2425 days, counted from March so that the leap day is a year's last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{CachesReport, ObjectStoreReport};

    #[test]
    fn spans_have_two_units() {
        let check = |seconds: u64, expected: &str| assert_eq!(span(seconds), expected);
        check(0, "0s");
        check(59, "59s");
        check(61, "1m 1s");
        check(3_600, "1h 0m");
        check(86_400 * 3 + 4 * 3_600 + 59, "3d 4h");
    }

    #[test]
    fn times_are_shown_in_utc() {
        let check = |unix_ms: u64, expected: &str| assert_eq!(utc(unix_ms), expected);
        check(0, "1970-01-01 00:00:00 UTC");
        check(951_782_400_000, "2000-02-29 00:00:00 UTC");
        check(1_700_000_000_999, "2023-11-14 22:13:20 UTC");
        check(4_107_542_399_000, "2100-02-28 23:59:59 UTC");
        check(4_107_542_400_000, "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn a_report_names_what_is_wrong() {
        let open = OpenImage {
            image: "disk0".to_owned(),
            size_bytes: 10 << 30,
            page_size_bytes: 4096,
            lsn: 12,
            flushed_lsn: 10,
            published_version: 3,
            published_lsn: 7,
            buffered_bytes: 5 << 20,
            buffer_disk_bytes: 6 << 20,
            generations_waiting: 1,
            publishing: true,
            transactions: 0,
            stalled: 3,
            held_up: Some(crate::control::HeldUpReport {
                by: "a full disk".to_owned(),
                held_ms: 65_000,
            }),
            space: crate::control::SpaceReport {
                stored_bytes: 3 << 30,
                dead_bytes: 1 << 30,
                segments: 12,
                cleaning_segments: 2,
                cleaning_left_bytes: 100 << 20,
                ..crate::control::SpaceReport::default()
            },
            connections: 2,
            tenure: "4/00ff".to_owned(),
            health: Health::Fenced,
            reason: Some("epoch 5 is the active writer's".to_owned()),
        };
        let report = NodeReport {
            server_version: "0.1.0".to_owned(),
            pid: 7,
            uptime_ms: 61_500,
            listen: vec!["127.0.0.1:10809".to_owned()],
            image_store: "s3://b/p/".to_owned(),
            buffer_store_path: "/b".to_owned(),
            rss_bytes: Some(64 << 20),
            rss_peak_bytes: Some(65 << 20),
            object_store: ObjectStoreReport::default(),
            caches: CachesReport {
                memory_bytes: 3 << 20,
                frames_from_memory: 40,
                frames_from_disk: 30,
                frames_from_store: 20,
                disk: Some(DiskCacheReport {
                    entries: 9,
                    bytes: 2 << 20,
                    limit_bytes: 10 << 30,
                    hits: 31,
                    ..DiskCacheReport::default()
                }),
            },
            images: vec![open],
            images_busy: vec!["disk1".to_owned()],
        };
        let text = node(&report);
        for expected in [
            "mvps 0.1.0, process 7, up 1m 1s",
            "64 MiB, at most 65 MiB",
            "FENCED: epoch 5 is the active writer's",
            "disk1 (being opened or closed)",
            "LSN 12, synced to 10",
            "version 3 with LSN 7",
            "10 GiB, pages of 4 KiB",
            "40 from memory (3 MiB), 30 from the local disk, 20 from the object store",
            "3 writes wait, held up by a full disk for 65 s",
            "2 MiB of 10 GiB in 9 entries; 31 found, 0 not, 0 damaged",
        ] {
            assert!(text.contains(expected), "{expected} is not in:\n{text}");
        }
    }
}
