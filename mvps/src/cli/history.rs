//! `mvps snapshot …` and what `mvps image` does to an image's history.
//!
//! What an open image knows better is asked of its server, through the control socket: to
//! checkpoint before its state is named or cloned, to roll back, to grow. Everything else, and all
//! of it where no server has the image open, is a publication from here.

use std::path::Path;

use anyhow::bail;
use mvps_core::admin::{
    self, Admin, Cloned, Deleted, PinsReport, Rekeyed, Resized, RolledBack, SnapshotCreated,
    SnapshotDeleted, SnapshotReport, VersionsReport,
};
use mvps_core::encryption::RootKeys;
use mvps_core::ids::{ImageId, Version};
use mvps_core::protocol::ManifestStore;
use mvps_core::token::Shown;

use super::args::{
    CloneArgs, DeleteArgs, ImageAt, ImageOperationArgs, ObjectStoreArgs, PinsArgs, ResizeArgs,
    RollbackArgs, SnapshotCommand, SnapshotCreateArgs, SnapshotDeleteArgs, VersionsArgs,
};
use super::output::shown;
use super::report::utc;
use super::store::{open_manifests, open_manifests_to_publish};
use crate::control::{ControlError, Reply, Request, RollbackTo, ask};
use crate::daemon::{recorded_life, root_keys};
use crate::quantity::ByteSize;
use crate::runtime::{OsEntropy, TokioClock};

/// What an operator's command works with.
struct AdminContext {
    manifests: ManifestStore,
    clock: TokioClock,
    root_keys: RootKeys,
}

impl AdminContext {
    /// For a command that publishes.
    async fn open(args: &ObjectStoreArgs) -> anyhow::Result<Self> {
        let root_keys = root_keys()?;
        Ok(Self::with(
            open_manifests_to_publish(args).await?,
            root_keys,
        ))
    }

    async fn open_to_read(args: &ObjectStoreArgs) -> anyhow::Result<Self> {
        Ok(Self::with(open_manifests(args).await?, RootKeys::none()))
    }

    fn with(manifests: ManifestStore, root_keys: RootKeys) -> Self {
        Self {
            manifests,
            clock: TokioClock::new(),
            root_keys,
        }
    }

    fn admin(&self) -> Admin<'_> {
        Admin {
            manifests: &self.manifests,
            clock: &self.clock,
            entropy: &OsEntropy,
            root_keys: &self.root_keys,
        }
    }
}

/// Asks the server that has the image open; `None` if there is no such server here.
async fn ask_server(folder: &Path, request: &Request) -> anyhow::Result<Option<Reply>> {
    match ask(folder, request).await {
        Ok(reply) => Ok(Some(reply)),
        Err(ControlError::NotRunning { .. } | ControlError::NotOpen { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Checkpoints the image if a server here has it open; whether one has.
async fn checkpoint(folder: &Path, image: &ImageId) -> anyhow::Result<bool> {
    let request = Request::Checkpoint {
        image: image.to_string(),
    };
    Ok(ask_server(folder, &request).await?.is_some())
}

/// What a snapshot or clone lacks that no server was asked for.
fn not_asked(active: Option<&str>, checkpointed: bool) -> String {
    match active {
        Some(owner) if !checkpointed => format!(
            "\n{owner} has the image, and was not asked: this is its last checkpoint. To have \
             everything that was written, run this with that server's --buffer-store-path"
        ),
        _ => String::new(),
    }
}

fn wanted(target: &ImageAt, version: Option<u64>) -> anyhow::Result<Shown> {
    match (&target.snapshot, version) {
        (None, None) => Ok(Shown::Newest),
        (Some(name), None) => Ok(Shown::Snapshot(name.clone())),
        (None, Some(number)) => Ok(Shown::Version(Version(number))),
        (Some(_), Some(_)) => bail!("name a snapshot or a version, not both"),
    }
}

fn snapshot_of(target: &ImageAt) -> anyhow::Result<&str> {
    match &target.snapshot {
        Some(name) => Ok(name),
        None => bail!("name the snapshot too: {}@NAME", target.image),
    }
}

/// `mvps snapshot …`; the result is what to print.
///
/// # Errors
/// What went wrong, and what to do.
pub async fn snapshot(command: SnapshotCommand) -> anyhow::Result<String> {
    match command {
        SnapshotCommand::Create(args) => create_snapshot(&args).await,
        SnapshotCommand::List(args) => list_snapshots(&args).await,
        SnapshotCommand::Delete(args) => delete_snapshot(&args).await,
    }
}

async fn create_snapshot(args: &SnapshotCreateArgs) -> anyhow::Result<String> {
    let name = snapshot_of(&args.target)?;
    let operation = &args.operation;
    let context = AdminContext::open(&operation.object_store).await?;
    let image = &args.target.image;
    let asked =
        args.version.is_none() && checkpoint(&operation.buffer.buffer_store_path, image).await?;
    let version = args.version.map(Version);
    let made = admin::create_snapshot(&context.admin(), image, name, version).await?;
    let text = |made: &SnapshotCreated| {
        let noted = asked || version.is_some();
        let lacks = not_asked(made.active_writer.as_deref(), noted);
        let SnapshotCreated {
            image,
            snapshot,
            version,
            ..
        } = made;
        format!("{image}@{snapshot} is version {version}{lacks}")
    };
    shown(operation.output.output, &made, text)
}

async fn list_snapshots(args: &ImageOperationArgs) -> anyhow::Result<String> {
    let context = AdminContext::open_to_read(&args.operation.object_store).await?;
    let rows = admin::snapshots(&context.admin(), &args.image).await?;
    let text = |rows: &Vec<SnapshotReport>| {
        let line = |row: &SnapshotReport| {
            let made = utc(row.created_at_unix_ms);
            format!("{:<24}  version {:<8}  {made}", row.name, row.version)
        };
        match rows.as_slice() {
            [] => format!("{} has no snapshots", args.image),
            rows => rows.iter().map(line).collect::<Vec<_>>().join("\n"),
        }
    };
    shown(args.operation.output.output, &rows, text)
}

async fn delete_snapshot(args: &SnapshotDeleteArgs) -> anyhow::Result<String> {
    let name = snapshot_of(&args.target)?;
    let context = AdminContext::open(&args.operation.object_store).await?;
    let image = &args.target.image;
    let deleted = admin::delete_snapshot(&context.admin(), image, name, args.force).await?;
    let text = |deleted: &SnapshotDeleted| {
        let kept = match deleted.pinned_by.as_slice() {
            [] => String::new(),
            holders => format!(
                "; version {} is kept for {}",
                deleted.version,
                holders.join(", ")
            ),
        };
        format!("{}@{} is deleted{kept}", deleted.image, deleted.snapshot)
    };
    shown(args.operation.output.output, &deleted, text)
}

/// `mvps image clone`.
pub(super) async fn clone(args: &CloneArgs) -> anyhow::Result<String> {
    let of = wanted(&args.source, args.version)?;
    let operation = &args.operation;
    let context = AdminContext::open(&operation.object_store).await?;
    let source = &args.source.image;
    let newest = of == Shown::Newest;
    let asked = newest && checkpoint(&operation.buffer.buffer_store_path, source).await?;
    let cloned = admin::clone_image(&context.admin(), source, &of, &args.target).await?;
    let text = |cloned: &Cloned| {
        let lacks = not_asked(cloned.active_writer.as_deref(), asked || !newest);
        format!(
            "{} is a clone of {}, version {}{lacks}",
            cloned.image, cloned.source, cloned.source_version
        )
    };
    shown(operation.output.output, &cloned, text)
}

/// `mvps image rollback`.
pub(super) async fn roll_back(args: &RollbackArgs) -> anyhow::Result<String> {
    let image = &args.target.image;
    let to = wanted(&args.target, args.version)?;
    let request_to = match &to {
        Shown::Snapshot(name) => RollbackTo::Snapshot(name.clone()),
        Shown::Version(version) => RollbackTo::Version(version.0),
        Shown::Newest => bail!(
            "say what to go back to: {image}@SNAPSHOT (`mvps snapshot list {image}`) or \
             --version NUMBER (`mvps image versions {image}`)"
        ),
    };
    let operation = &args.operation;
    let request = Request::Rollback {
        image: image.to_string(),
        to: request_to,
        discard_unpublished: args.discard_unpublished,
    };
    let done = match ask_server(&operation.buffer.buffer_store_path, &request).await? {
        Some(Reply::RolledBack(done)) => RolledBack {
            image: done.image,
            to_version: done.to_version,
            version: done.version,
            undo_version: done.undo_version,
            lsn: done.lsn,
        },
        Some(_) => bail!("the server answered something else; is it of another version?"),
        None => {
            let context = AdminContext::open(&operation.object_store).await?;
            admin::roll_back(&context.admin(), image, &to).await?
        }
    };
    let text = |done: &RolledBack| {
        format!(
            "{image} is what it was in version {}, as version {}. Until version {undo} is \
             collected, `mvps image rollback {image} --version {undo}` undoes this",
            done.to_version,
            done.version,
            undo = done.undo_version,
        )
    };
    shown(operation.output.output, &done, text)
}

/// `mvps image resize`.
pub(super) async fn resize(args: &ResizeArgs) -> anyhow::Result<String> {
    let (image, operation) = (&args.image, &args.operation);
    let request = Request::Resize {
        image: image.to_string(),
        size_bytes: args.size.0,
    };
    let done = match ask_server(&operation.buffer.buffer_store_path, &request).await? {
        Some(Reply::Resized(done)) => Resized {
            image: done.image,
            from_bytes: done.from_bytes,
            size_bytes: done.size_bytes,
        },
        Some(_) => bail!("the server answered something else; is it of another version?"),
        None => {
            let context = AdminContext::open(&operation.object_store).await?;
            admin::resize(&context.admin(), image, args.size.0).await?
        }
    };
    let text = |done: &Resized| {
        let size = ByteSize(done.size_bytes);
        if done.from_bytes == done.size_bytes {
            return format!("{image} has {size} already");
        }
        format!("{image} has {size} now; clients see it when they attach again")
    };
    shown(operation.output.output, &done, text)
}

/// `mvps image rekey`.
pub(super) async fn rekey(args: &ImageOperationArgs) -> anyhow::Result<String> {
    let (image, operation) = (&args.image, &args.operation);
    // The server wraps with its own first key: it must be the one that is meant.
    let wanted = root_keys()?.first().map(|key| key.id().to_string());
    let request = Request::Rekey {
        image: image.to_string(),
        root_key: wanted,
    };
    let done = match ask_server(&operation.buffer.buffer_store_path, &request).await? {
        Some(Reply::Rekeyed(done)) => Rekeyed {
            image: done.image,
            version: done.version,
            root_key: done.root_key,
            data_keys: done.data_keys,
            replaced: done.replaced,
            active_writer: None,
        },
        Some(_) => bail!("the server answered something else; is it of another version?"),
        None => {
            let context = AdminContext::open(&operation.object_store).await?;
            admin::rekey(&context.admin(), image).await?
        }
    };
    shown(operation.output.output, &done, rekeyed_text)
}

fn rekeyed_text(done: &Rekeyed) -> String {
    let Rekeyed {
        image, root_key, ..
    } = done;
    if done.data_keys == 0 {
        return format!("the data keys of {image} are wrapped with root key {root_key} already");
    }
    let owner = done
        .active_writer
        .as_ref()
        .map_or_else(String::new, |owner| {
            format!("\n{owner} has the image; it needs that key before it opens it the next time")
        });
    format!(
        "the data keys of {image} are wrapped with root key {root_key}; it needs {} no more{owner}",
        done.replaced.join(", ")
    )
}

/// `mvps image delete`.
pub(super) async fn delete(args: &DeleteArgs) -> anyhow::Result<String> {
    let context = AdminContext::open(&args.operation.object_store).await?;
    let deleted = admin::delete(&context.admin(), &args.image, args.force).await?;
    let text = |deleted: &Deleted| {
        let mut lines = vec![format!("{} is deleted", deleted.image)];
        if !deleted.snapshots.is_empty() {
            lines.push(format!(
                "with its snapshots {}",
                deleted.snapshots.join(", ")
            ));
        }
        if !deleted.pinned_by.is_empty() {
            lines.push(format!(
                "what is kept is kept for {}",
                deleted.pinned_by.join(", ")
            ));
        }
        if let Some(owner) = &deleted.fenced {
            lines.push(format!(
                "{owner} had it and is fenced; its buffer store of the image can be removed"
            ));
        }
        lines.join("; ")
    };
    shown(args.operation.output.output, &deleted, text)
}

/// `mvps image versions`.
pub(super) async fn versions(args: &VersionsArgs) -> anyhow::Result<String> {
    let context = AdminContext::open_to_read(&args.operation.object_store).await?;
    let report = admin::versions(&context.admin(), &args.image, args.limit).await?;
    shown(args.operation.output.output, &report, versions_text)
}

fn versions_text(report: &VersionsReport) -> String {
    let mut lines = vec![format!(
        "{:>8}  {:>10}  {:>10}  {:<23}  names and pins",
        "version", "LSN", "size", "published"
    )];
    for one in &report.versions {
        let mut names: Vec<String> = one
            .snapshots
            .iter()
            .map(|name| format!("@{name}"))
            .collect();
        names.extend(one.pinned_by.iter().cloned());
        let line = format!(
            "{:>8}  {:>10}  {:>10}  {:<23}  {}",
            one.version,
            one.lsn,
            ByteSize(one.size_bytes).to_string(),
            utc(one.published_at_unix_ms),
            names.join(", ")
        );
        lines.push(line.trim_end().to_owned());
    }
    if report.more > 0 {
        lines.push(format!(
            "and {} more, from version {} on: --limit NUMBER shows them",
            report.more, report.oldest_retained_version
        ));
    }
    lines.join("\n")
}

/// `mvps image pins`.
pub(super) async fn pins(args: &PinsArgs) -> anyhow::Result<String> {
    let store = &args.operation.object_store;
    let folder = &args.operation.buffer.buffer_store_path;
    let runs = is_running(folder).await;
    let present = recorded_life(folder).filter(|_| runs);
    let present = present.as_ref();
    let report = match &args.release {
        Some(reader) => {
            if runs && present.is_none() {
                bail!(
                    "a server runs in {}, and which pins are its own cannot be read there: run \
                     this as its user",
                    folder.display()
                );
            }
            let context = AdminContext::open(store).await?;
            // As it is listed, too.
            let reader = reader.strip_prefix("reader ").unwrap_or(reader);
            admin::release_reader(&context.admin(), &args.image, reader, present).await?
        }
        None => {
            let context = AdminContext::open_to_read(store).await?;
            admin::pins(&context.admin(), &args.image, present).await?
        }
    };
    shown(args.operation.output.output, &report, pins_text)
}

/// Whether a server runs in this folder; one that does not answer well does.
async fn is_running(folder: &Path) -> bool {
    let answer = ask(folder, &Request::Status).await;
    !matches!(answer, Err(ControlError::NotRunning { .. }))
}

fn pins_text(report: &PinsReport) -> String {
    if report.pins.is_empty() {
        return format!("nobody pins anything of {}", report.image);
    }
    let lines = report.pins.iter().map(|pin| {
        let kept = match (pin.version, pin.objects) {
            (Some(version), _) => format!("version {version}"),
            (None, objects) => format!("{} objects", objects.unwrap_or(0)),
        };
        let life = match pin.life_is {
            Some("present") => " (the server that runs here)",
            Some(_) => " (an earlier life of the server that runs here; it has ended)",
            None => "",
        };
        format!("{} keeps {kept}{life}", pin.holder)
    });
    lines.collect::<Vec<_>>().join("\n")
}
