//! `mvps image …`: an operator's work on images, through the object store alone.

use mvps_core::admin::{self, Adopted, ImageReport, ImageRow, TakeoverOutcome};
use mvps_core::encryption::RootKeys;
use mvps_core::protocol::Opener;

use super::args::{ImageAdoptArgs, ImageCommand, ImageNameArgs};
use super::output::shown;
use super::store::{open_manifests, open_manifests_to_publish};
use super::{history, report};
use crate::daemon::{open_buffer_stores, this_process};
use crate::quantity::ByteSize;
use crate::runtime::{OsEntropy, TokioClock};

/// Carries it out; the result is what to print.
///
/// # Errors
/// What went wrong, and what to do.
pub async fn carry_out(command: ImageCommand) -> anyhow::Result<String> {
    match command {
        ImageCommand::List(args) => {
            let manifests = open_manifests(&args.object_store).await?;
            let rows = admin::list(&manifests).await?;
            shown(args.output.output, &rows, |rows| list_text(rows))
        }
        ImageCommand::Show(args) => {
            let manifests = open_manifests(&args.object_store).await?;
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
    let manifests = open_manifests_to_publish(&args.object_store).await?;
    let outcome = admin::takeover(&manifests, &TokioClock::new(), &OsEntropy, &args.image).await?;
    shown(args.output.output, &outcome, takeover_text)
}

async fn adopt(args: &ImageAdoptArgs) -> anyhow::Result<String> {
    let manifests = open_manifests_to_publish(&args.name.object_store).await?;
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
        "{:<width$}  {:>12}  {:>8}  state",
        "image", "size", "version"
    )];
    for row in rows {
        lines.push(match (&row.report, &row.problem) {
            (Some(image), _) => {
                let size = ByteSize(image.size_bytes).to_string();
                let state = report::state(image);
                format!(
                    "{:<width$}  {size:>12}  {:>8}  {state}",
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
            format!("{} has no active writer: nothing was changed", image.image)
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
        was_active,
    } = adopted;
    if *was_active {
        return format!(
            "the buffer store of {image} is the active writer's already: nothing was changed"
        );
    }
    format!(
        "the buffer store of {image} is the active writer's again, with version {version}. A server \
         that is started on it goes on from LSN {buffer_lsn} (the last checkpoint is at {checkpoint_lsn})."
    )
}
