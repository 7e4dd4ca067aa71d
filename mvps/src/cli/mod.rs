//! The command line of `mvps`: parsing, and what each subcommand prints.
//!
//! Results go to stdout, logs and errors to stderr. The exit code is 0 if what was asked for was
//! done, 1 if it failed, 2 if the command line was wrong.

mod args;
mod check;
mod history;
mod image;
mod output;
mod parse;
mod progress;
mod report;
mod run;
mod store;
mod token;
mod txn;

#[cfg(test)]
mod tests;

pub use args::{
    BufferStoreArgs, CheckArgs, CheckpointArgs, Cli, ClientTlsArgs, CloneArgs, Command,
    ContradictoryFlags, DeleteArgs, DurabilityArg, EncryptionArgs, ImageAdoptArgs, ImageArgs,
    ImageAt, ImageCommand, ImageListArgs, ImageNameArgs, ImageOperationArgs, LogArgs, LogFormat,
    ObjectStoreArgs, ObjectStoreKind, OperationArgs, OutputArgs, OutputFormat, PinsArgs,
    ResizeArgs, RollbackArgs, ServeArgs, SnapshotArgs, SnapshotCommand, SnapshotCreateArgs,
    SnapshotDeleteArgs, StatusArgs, TlsArgs, TokenArgs, TuningArgs, TxnArgs, VersionsArgs,
};
pub use parse::parse;
pub use progress::ProgressLine;
pub use run::main;
