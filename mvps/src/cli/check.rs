//! `mvps check`: verifies what is stored.

use std::process::ExitCode;
use std::sync::Arc;

use mvps_core::check::{CheckProgress, CheckReport, Checker, ImageCheck};

use super::args::{CheckArgs, OutputFormat};
use super::progress::ProgressLine;
use super::store::open_store;
use crate::daemon::root_keys;
use crate::quantity::ByteSize;

/// Carries it out; the result is what to print, and whether nothing is wrong.
///
/// # Errors
/// If the images cannot be listed.
pub async fn carry_out(args: &CheckArgs) -> anyhow::Result<(String, ExitCode)> {
    let store = open_store(&args.object_store).await?;
    let line = Arc::new(ProgressLine::new());
    let shown = Arc::clone(&line);
    let observer = Arc::new(move |progress: CheckProgress| {
        let words = format!(
            "{} versions, {} objects, {} of data",
            progress.versions,
            progress.objects,
            ByteSize(progress.data_bytes)
        );
        shown.show(progress.images, progress.images_done, words);
    });
    let checker = Checker::new(store, args.read_data, observer).with_root_keys(root_keys()?);
    let report = checker.check(args.image.as_ref()).await;
    line.clear();
    let report = report?;
    let text = match args.output.output {
        OutputFormat::Human => text(&report),
        OutputFormat::Json => serde_json::to_string_pretty(&report)?,
    };
    let code = match report.is_clean() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    };
    Ok((text, code))
}

fn text(report: &CheckReport) -> String {
    let mut lines: Vec<String> = report.images.iter().flat_map(image_lines).collect();
    let wrong = report.images.iter().filter(|it| !it.findings.is_empty());
    lines.push(match wrong.count() {
        0 => format!("{} images: nothing is wrong", report.images.len()),
        wrong => format!("{} images: {wrong} DAMAGED", report.images.len()),
    });
    if !report.read_data {
        lines.push("page content was not read (--read-data)".to_owned());
    }
    lines.join("\n")
}

fn image_lines(image: &ImageCheck) -> Vec<String> {
    let size = ByteSize(image.object_bytes);
    let mut lines = vec![format!(
        "{}: {} versions, {} objects with {size}, {} verified",
        image.image, image.versions, image.objects, image.objects_verified
    )];
    match image.leaks {
        Some(leaks) if leaks.garbage + leaks.unsettled > 0 => lines.push(format!(
            "  unreferenced: {} objects with {} that mvps-gc deletes, {} with {} that it may not \
             delete yet",
            leaks.garbage,
            ByteSize(leaks.garbage_bytes),
            leaks.unsettled,
            ByteSize(leaks.unsettled_bytes)
        )),
        _ => {}
    }
    if let Some(reason) = &image.unopened {
        lines.push(format!(
            "  NOT OPENED: of encrypted content only checksums were verified: {reason}"
        ));
    }
    for finding in &image.findings {
        lines.push(format!("  WRONG: {}: {}", finding.key, finding.reason));
    }
    if image.findings_left_out > 0 {
        lines.push(format!("  and {} more", image.findings_left_out));
    }
    lines
}
