//! The command line. What names the object store is as in `mvps`, environment variables included,
//! so that a collector can run in the environment of a server.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::BoolishValueParser;
use mvps::cli::{ImageStoreArgs, ImageStoreKind, LogArgs, OutputArgs, parse_span};
use mvps_core::collector::CollectionPolicy;
use mvps_core::collector::expiry::ExpiryPolicy;
use mvps_core::collector::policy::ABANDON_AFTER;
use mvps_core::ids::ImageId;

const DAY: Duration = Duration::from_secs(86_400);

/// Delete what no version, snapshot, clone or server can reach any more.
///
/// One pass over all images, or over one. Safe beside running servers and other collectors, and
/// safe to kill at any time.
#[derive(Debug, Clone, Parser)]
#[command(name = "mvps-gc", version)]
pub struct CollectorArgs {
    /// Where images live [default: s3 if there is a bucket, local if there is a path].
    #[arg(long, env = "MVPS_TE_IMAGE_STORE", value_name = "KIND")]
    pub image_store: Option<ImageStoreKind>,
    /// Bucket. Credentials come from the AWS default chain; S3_ENDPOINT names another endpoint.
    #[arg(
        long,
        alias = "image-store-s3-bucket",
        env = "MVPS_TE_IMAGE_STORE_S3_BUCKET",
        value_name = "BUCKET"
    )]
    pub bucket: Option<String>,
    /// Put before every key, for example prod/.
    #[arg(
        long,
        alias = "image-store-s3-prefix",
        env = "MVPS_TE_IMAGE_STORE_S3_PREFIX",
        value_name = "PREFIX"
    )]
    pub prefix: Option<String>,
    /// Folder of a local object store.
    #[arg(long, env = "MVPS_TE_IMAGE_STORE_LOCAL_PATH", value_name = "DIR")]
    pub image_store_local_path: Option<PathBuf>,
    /// Accept an object store that ignores If-None-Match. Publications can then overwrite each
    /// other; only for a store that no server uses while this runs.
    #[arg(long, env = "MVPS_TE_UNSAFE_NO_FENCING", value_parser = BoolishValueParser::new())]
    pub unsafe_no_fencing: bool,
    /// Forget versions that were replaced at least this many days ago; 0 forgets every version
    /// that was replaced. Snapshots and what readers and clones pin are kept.
    #[arg(long, env = "MVPS_TE_THRESHOLD_INACTIVE_DAYS", value_name = "DAYS")]
    pub threshold_inactive_days: u32,
    /// Keep this many of the newest states of each image, however old they are.
    #[arg(
        long,
        env = "MVPS_TE_KEEP_VERSIONS",
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub keep_versions: u32,
    /// Collect this image only.
    #[arg(long, env = "MVPS_TE_IMAGE", value_name = "IMAGE", value_parser = ImageId::parse)]
    pub image: Option<ImageId>,
    /// Say what would be done, and change nothing.
    #[arg(long, env = "MVPS_TE_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub dry_run: bool,
    /// Delete no more than this many keys in a pass.
    #[arg(long, env = "MVPS_TE_MAX_DELETES", value_name = "COUNT")]
    pub max_deletes: Option<u64>,
    /// Requests to the object store at the same time.
    #[arg(
        long,
        env = "MVPS_TE_CONCURRENCY",
        value_name = "COUNT",
        default_value_t = 32,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub concurrency: u16,
    /// Do not end: begin a pass this long after the previous one has ended.
    #[arg(long, env = "MVPS_TE_INTERVAL", value_name = "SPAN", value_parser = parse_span)]
    pub interval: Option<Duration>,
    /// How to print the result.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

impl CollectorArgs {
    /// The object store, in the words of `mvps`.
    #[must_use]
    pub fn images(&self) -> ImageStoreArgs {
        ImageStoreArgs {
            image_store: self.image_store,
            image_store_s3_bucket: self.bucket.clone(),
            image_store_s3_prefix: self.prefix.clone(),
            image_store_local_path: self.image_store_local_path.clone(),
            unsafe_no_fencing: self.unsafe_no_fencing,
        }
    }

    /// What is wanted of the collection.
    #[must_use]
    pub fn policy(&self) -> CollectionPolicy {
        CollectionPolicy {
            expiry: ExpiryPolicy {
                inactive: DAY * self.threshold_inactive_days,
                states_min: self.keep_versions,
            },
            dry_run: self.dry_run,
            deletes_max: self.max_deletes,
            abandon_after: ABANDON_AFTER,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<CollectorArgs, clap::Error> {
        CollectorArgs::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_documented_command_lines_parse() {
        for line in [
            "mvps-gc --bucket b --prefix p/ --threshold-inactive-days 30",
            "mvps-gc --image-store local --image-store-local-path /d --threshold-inactive-days 0",
            "mvps-gc --image-store-s3-bucket b --threshold-inactive-days 1 --keep-versions 3",
            "mvps-gc --bucket b --threshold-inactive-days 1 --image i --dry-run --max-deletes 9",
            "mvps-gc --bucket b --threshold-inactive-days 1 --concurrency 4 --interval 1h",
            "mvps-gc --bucket b --threshold-inactive-days 1 --output json --log-level debug",
        ] {
            parse(line).expect(line);
        }
        for line in [
            "mvps-gc",
            "mvps-gc --threshold-inactive-days -1",
            "mvps-gc --threshold-inactive-days 1 --keep-versions 0",
            "mvps-gc --threshold-inactive-days 1 --concurrency 0",
            "mvps-gc --threshold-inactive-days 1 --image no/slash",
            "mvps-gc --threshold-inactive-days 1 --interval soon",
        ] {
            parse(line).expect_err(line);
        }
        CollectorArgs::command().debug_assert();
    }

    #[test]
    fn flags_become_a_policy() {
        let args = parse("mvps-gc --bucket b --threshold-inactive-days 30 --keep-versions 2");
        let policy = args.expect("parses").policy();
        assert_eq!(policy.expiry.inactive, Duration::from_hours(720));
        assert_eq!(policy.expiry.states_min, 2);
        assert!(!policy.dry_run && policy.deletes_max.is_none());
    }
}
