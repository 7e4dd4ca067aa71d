//! `mvps image …`: an operator's work on images, through the object store alone.

use std::sync::Arc;
use std::time::Duration;

use mvps_core::admin::{self, Adopted, ImageReport, ImageRow, TakeoverOutcome};
use mvps_core::encryption::RootKeys;
use mvps_core::protocol::{ManifestStore, Opener};
use mvps_core::store::{Patience, RetryingStore, probe_conditional_create};

use super::{
    ByteSize, ImageAdoptArgs, ImageCommand, ImageNameArgs, ImageStoreArgs, OutputFormat, history,
    report,
};
use crate::daemon::{ImageStoreChoice, open_buffer_stores, open_object_store, this_process};
use crate::runtime::{OsEntropy, TokioClock};

/// An operator waits for a slow object store, but not for ever.
const OBJECT_STORE_PATIENCE: Duration = Duration::from_secs(30);

/// Carries it out; the result is what to print.
///
/// # Errors
/// What went wrong, and what to do.
pub async fn carry_out(command: ImageCommand) -> anyhow::Result<String> {
    match command {
        ImageCommand::List(args) => {
            let manifests = open_manifests(&args.images).await?;
            let rows = admin::list(&manifests).await?;
            shown(args.output.output, &rows, |rows| list_text(rows))
        }
        ImageCommand::Show(args) => {
            let manifests = open_manifests(&args.images).await?;
            let image = admin::show(&manifests, &args.image).await?;
            shown(args.output.output, &image, report::image)
        }
        ImageCommand::Clone(args) => history::clone(&args).await,
        ImageCommand::Rollback(args) => history::roll_back(&args).await,
        ImageCommand::Resize(args) => history::resize(&args).await,
        ImageCommand::Rekey(args) => history::rekey(&args).await,
        ImageCommand::Delete(args) => history::delete(&args).await,
        ImageCommand::Versions(args) => history::versions(&args).await,
        ImageCommand::Pins(args) => history::pins(&args).await,
        ImageCommand::Takeover(args) => takeover(&args).await,
        ImageCommand::Adopt(args) => adopt(&args).await,
    }
}

async fn takeover(args: &ImageNameArgs) -> anyhow::Result<String> {
    let manifests = open_manifests_to_publish(&args.images).await?;
    let outcome = admin::takeover(&manifests, &TokioClock::new(), &OsEntropy, &args.image).await?;
    shown(args.output.output, &outcome, takeover_text)
}

async fn adopt(args: &ImageAdoptArgs) -> anyhow::Result<String> {
    let manifests = open_manifests_to_publish(&args.name.images).await?;
    let buffers = open_buffer_stores(&args.buffer.buffer_store_path);
    let owner = this_process();
    let opener = Opener {
        manifests: &manifests,
        clock: &TokioClock::new(),
        entropy: &OsEntropy,
        owner: &owner,
        // Whoever serves the image needs its keys; nothing is read here.
        root_keys: &RootKeys::none(),
    };
    let adopted = admin::adopt(&opener, &*buffers, &args.name.image).await?;
    shown(args.name.output.output, &adopted, adopted_text)
}

pub(super) async fn open_store(args: &ImageStoreArgs) -> anyhow::Result<RetryingStore> {
    let choice = ImageStoreChoice::from_args(args)?;
    let objects = open_object_store(&choice).await?;
    let store = RetryingStore::new(objects, Arc::new(TokioClock::new()), Arc::new(OsEntropy));
    Ok(store.with_patience(Patience::For(OBJECT_STORE_PATIENCE)))
}

pub(super) async fn open_manifests(args: &ImageStoreArgs) -> anyhow::Result<ManifestStore> {
    Ok(ManifestStore::new(open_store(args).await?))
}

/// For a command that publishes, which is safe only where conditional creates work.
pub(super) async fn open_manifests_to_publish(
    args: &ImageStoreArgs,
) -> anyhow::Result<ManifestStore> {
    let store = open_store(args).await?;
    probe_conditional_create(&store, args.unsafe_no_fencing)
        .await
        // The error's own text has its source's already.
        .map_err(|error| anyhow::anyhow!("nothing was changed: {error}"))?;
    Ok(ManifestStore::new(store))
}

pub(super) fn shown<T: serde::Serialize>(
    format: OutputFormat,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<String> {
    match format {
        OutputFormat::Human => Ok(text(value)),
        OutputFormat::Json => Ok(serde_json::to_string_pretty(value)?),
    }
}

fn list_text(rows: &[ImageRow]) -> String {
    if rows.is_empty() {
        return "no images".to_owned();
    }
    let width = rows
        .iter()
        .map(|row| row.image.len())
        .max()
        .unwrap_or(0)
        .max(5);
    let mut lines = vec![format!(
        "{:<width$}  {:>12}  {:>8}  office",
        "image", "size", "version"
    )];
    for row in rows {
        lines.push(match (&row.report, &row.problem) {
            (Some(image), _) => {
                let size = ByteSize(image.size_bytes).to_string();
                let office = report::office(image);
                format!(
                    "{:<width$}  {size:>12}  {:>8}  {office}",
                    row.image, image.version
                )
            }
            (None, problem) => {
                let problem = problem.as_deref().unwrap_or("it has no manifest");
                format!("{:<width$}  {problem}", row.image)
            }
        });
    }
    lines.join("\n")
}

fn takeover_text(outcome: &TakeoverOutcome) -> String {
    match outcome {
        TakeoverOutcome::TakenOver(image) => format!(
            "{name} is free: any server with an empty buffer store can open it. It is at its last \
             checkpoint, LSN {lsn}; what was written after that is given up.",
            name = image.image,
            lsn = given_up_at(image),
        ),
        TakeoverOutcome::WasClean(image) => {
            format!(
                "nobody was in office of {}: nothing was changed",
                image.image
            )
        }
    }
}

fn given_up_at(image: &ImageReport) -> u64 {
    image
        .takeovers
        .last()
        .map_or(image.lsn, |takeover| takeover.at_lsn)
}

fn adopted_text(adopted: &Adopted) -> String {
    let Adopted {
        image,
        version,
        checkpoint_lsn,
        buffer_lsn,
        was_in_office,
    } = adopted;
    if *was_in_office {
        return format!("the buffer store of {image} was in office already: nothing was changed");
    }
    format!(
        "the buffer store of {image} is in office again, with version {version}. A server that is \
         started on it goes on from LSN {buffer_lsn} (the last checkpoint is at {checkpoint_lsn})."
    )
}
