//! The garbage collector of mvps: its command line.
//!
//! The collection itself is not in this build. The command line is fixed already, so that whoever
//! schedules the collector can prepare for it; [`run`] refuses, and deletes nothing.
#![warn(missing_docs)]

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Delete what no version, snapshot, clone or server can reach any more. One pass.
#[derive(Debug, Clone, Parser)]
#[command(name = "mvps-gc", version)]
pub struct CollectorArgs {
    /// Where images live [default: s3 if there is a bucket, local if there is a path].
    #[arg(long, env = "MVPS_TE_IMAGE_STORE", value_name = "KIND")]
    pub image_store: Option<StoreKind>,
    /// Bucket. Credentials come from the AWS default chain; S3_ENDPOINT names another endpoint.
    #[arg(long, env = "MVPS_TE_BUCKET", value_name = "BUCKET")]
    pub bucket: Option<String>,
    /// Put before every key, for example prod/.
    #[arg(long, env = "MVPS_TE_PREFIX", value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// Folder of a local object store.
    #[arg(long, env = "MVPS_TE_IMAGE_STORE_LOCAL_PATH", value_name = "DIR")]
    pub image_store_local_path: Option<PathBuf>,
    /// Forget versions that were replaced more than this many days ago.
    #[arg(long, env = "MVPS_TE_THRESHOLD_INACTIVE_DAYS", value_name = "DAYS")]
    pub threshold_inactive_days: u32,
}

/// Kinds of object stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// S3 or something that speaks its protocol.
    S3,
    /// A folder.
    Local,
}

/// Why nothing was collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotInThisBuild;

impl std::fmt::Display for NotInThisBuild {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(
            "collection is not in this build of mvps-gc yet: nothing was examined and nothing was \
             deleted. Objects that are no longer reachable stay in the object store, which costs \
             space and is otherwise harmless",
        )
    }
}

impl std::error::Error for NotInThisBuild {}

/// One pass of the collector.
///
/// # Errors
/// Always [`NotInThisBuild`].
pub fn run(_arguments: &CollectorArgs) -> Result<(), NotInThisBuild> {
    Err(NotInThisBuild)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_command_lines_parse_and_are_refused() {
        for line in [
            "mvps-gc --bucket b --prefix p/ --threshold-inactive-days 30",
            "mvps-gc --image-store local --image-store-local-path /d --threshold-inactive-days 0",
        ] {
            let arguments = CollectorArgs::try_parse_from(line.split(' ')).expect(line);
            assert_eq!(run(&arguments), Err(NotInThisBuild));
        }
        CollectorArgs::try_parse_from(["mvps-gc"]).expect_err("the threshold is required");
    }
}
