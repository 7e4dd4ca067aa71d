//! Reports for people.

use std::fmt::Write as _;
use std::time::Duration;

use super::ByteSize;
use crate::control::{Health, ImageReport, NodeReport};

/// What a server does.
#[must_use]
pub fn node(node: &NodeReport) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<14}{value}");
    };
    let uptime = Duration::from_secs(node.uptime_ms / 1000);
    line(
        "server",
        format!(
            "mvps {}, process {}, up {uptime:?}",
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
            "{} requests ({} unanswered), {} sent, {} received",
            store.requests,
            store.unavailable,
            ByteSize(store.sent_bytes),
            ByteSize(store.received_bytes)
        ),
    );
    let used = store.operations.iter().filter(|row| row.requests > 0);
    let used: Vec<_> = used
        .map(|row| format!("{} {}", row.operation, row.requests))
        .collect();
    if !used.is_empty() {
        line("", used.join(", "));
    }
    if node.images.is_empty() {
        line("images", "none is open".to_owned());
    }
    node.images.iter().for_each(|open| image(&mut text, open));
    text
}

fn image(text: &mut String, image: &ImageReport) {
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
    let _ = write!(
        text,
        "\n{name}\n  {health}{reason}\n  \
         size          {size}, pages of {page}\n  \
         commits       LSN {lsn}, synced to {flushed}\n  \
         published     version {version} with LSN {published}\n  \
         buffered      {buffered}, {generations} generations wait for their checkpoint\n  \
         connections   {connections}\n  \
         tenure        {tenure}\n",
        name = image.image,
        size = ByteSize(image.size_bytes),
        page = ByteSize(image.page_size_bytes),
        lsn = image.lsn,
        flushed = image.flushed_lsn,
        version = image.published_version,
        published = image.published_lsn,
        buffered = ByteSize(image.buffered_bytes),
        generations = image.generations_waiting,
        connections = image.connections,
        tenure = image.tenure,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ObjectStoreReport;

    #[test]
    fn a_report_names_what_is_wrong() {
        let open = ImageReport {
            image: "disk0".to_owned(),
            size_bytes: 10 << 30,
            page_size_bytes: 4096,
            lsn: 12,
            flushed_lsn: 10,
            published_version: 3,
            published_lsn: 7,
            buffered_bytes: 5 << 20,
            generations_waiting: 1,
            connections: 2,
            tenure: "4/00ff".to_owned(),
            health: Health::Fenced,
            reason: Some("epoch 5 is in office".to_owned()),
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
            images: vec![open],
        };
        let text = node(&report);
        for expected in [
            "mvps 0.1.0, process 7, up 61s",
            "64 MiB, at most 65 MiB",
            "FENCED: epoch 5 is in office",
            "LSN 12, synced to 10",
            "version 3 with LSN 7",
            "10 GiB, pages of 4 KiB",
        ] {
            assert!(text.contains(expected), "{expected} is not in:\n{text}");
        }
    }
}
