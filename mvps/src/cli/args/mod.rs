//! The command line: every flag, its environment variable and its default.
//!
//! Invariant: the environment variable of `--some-flag` is `MVPS_TE_SOME_FLAG`, for every flag
//! (a test holds these files to it). The signing secret has no flag, because arguments can be seen
//! by every user of the machine: it comes from `MVPS_TE_JWT_SECRET` alone.
//!
//! Reading order: [`command`] (the subcommands), [`shared`] and [`object_store`] (what several of
//! them take), [`serve`], then one file for each kind of subcommand.

mod check;
mod command;
mod history;
mod image;
mod object_store;
mod serve;
mod server;
mod shared;
mod token;
mod txn;

pub use check::CheckArgs;
pub use command::{Cli, Command};
pub use history::{
    CloneArgs, DeleteArgs, ImageAt, ImageOperationArgs, OperationArgs, PinsArgs, ResizeArgs,
    RollbackArgs, SnapshotArgs, SnapshotCommand, SnapshotCreateArgs, SnapshotDeleteArgs,
    VersionsArgs,
};
pub use image::{ImageAdoptArgs, ImageArgs, ImageCommand, ImageListArgs, ImageNameArgs};
pub use object_store::{ContradictoryFlags, ObjectStoreArgs, ObjectStoreKind};
pub use serve::{EncryptionArgs, ServeArgs, TlsArgs, TuningArgs};
pub use server::{CheckpointArgs, StatusArgs};
pub use shared::{BufferStoreArgs, DurabilityArg, LogArgs, LogFormat, OutputArgs, OutputFormat};
pub use token::TokenArgs;
pub use txn::{ClientTlsArgs, TxnArgs};
