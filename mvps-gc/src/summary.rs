//! What a pass did, for people.

use mvps::quantity::ByteSize;
use mvps_core::collector::{CollectionReport, ImageCollection};

/// A few lines: one for each image to which something was done or on which something failed, and
/// one for all.
#[must_use]
pub fn summary(report: &CollectionReport) -> String {
    let mut lines: Vec<String> = Vec::new();
    for image in &report.images {
        let done = done_to(image);
        if !done.is_empty() {
            lines.push(format!("{}: {}", image.image, done.join(", ")));
        }
        let problems = image.problems.iter();
        lines.extend(problems.map(|problem| format!("{}: FAILED: {problem}", image.image)));
    }
    let bytes: u64 = report.images.iter().map(|image| image.bytes_deleted).sum();
    let what = match report.dry_run {
        true => "would delete",
        false => "deleted",
    };
    lines.push(format!(
        "{} images: {what} {} keys with {}",
        report.images.len(),
        report.deleted(),
        ByteSize(bytes)
    ));
    if report.limit_reached {
        lines.push("there is more: the limit on deletions was reached".to_owned());
    }
    if report.dry_run {
        lines.push("this was a dry run: nothing was changed".to_owned());
    }
    lines.join("\n")
}

fn done_to(image: &ImageCollection) -> Vec<String> {
    let size = ByteSize(image.bytes_deleted);
    let counts = [
        (image.versions_forgotten, "versions forgotten".to_owned()),
        (image.objects_deleted, format!("objects deleted ({size})")),
        (image.manifests_deleted, "manifests deleted".to_owned()),
        (image.uploads_aborted, "uploads aborted".to_owned()),
        (image.pins_released.len() as u64, "clones let go".to_owned()),
        (
            image.clones_abandoned.len() as u64,
            "unfinished clones abandoned".to_owned(),
        ),
        (image.unknown_keys, "unknown keys left alone".to_owned()),
    ];
    let done = counts.iter().filter(|(count, _)| *count > 0);
    done.map(|(count, what)| format!("{count} {what}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_and_what_failed() {
        let quiet = ImageCollection {
            image: "quiet".to_owned(),
            objects: 9,
            ..ImageCollection::default()
        };
        let busy = ImageCollection {
            image: "busy".to_owned(),
            versions_forgotten: 4,
            objects_deleted: 3,
            bytes_deleted: 3 << 20,
            manifests_deleted: 4,
            problems: vec!["no".to_owned()],
            ..ImageCollection::default()
        };
        let report = CollectionReport {
            dry_run: true,
            limit_reached: true,
            images: vec![quiet, busy],
        };
        let expected = "busy: 4 versions forgotten, 3 objects deleted (3 MiB), 4 manifests deleted\n\
            busy: FAILED: no\n\
            2 images: would delete 7 keys with 3 MiB\n\
            there is more: the limit on deletions was reached\n\
            this was a dry run: nothing was changed";
        assert_eq!(summary(&report), expected);
    }
}
