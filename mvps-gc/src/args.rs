//! The command line. The object store is named as in `mvps`, environment variables included, so
//! that a collector can run in the environment of a server. Two flags have shorter names here:
//! `--bucket` and `--prefix`; the longer ones of `mvps` work, too.

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Arg, Args, Command, FromArgMatches as _};
use mvps::cli::{LogArgs, ObjectStoreArgs, OutputArgs};
use mvps::quantity::parse_span;
use mvps_core::collector::CollectionPolicy;
use mvps_core::collector::expiry::ExpiryPolicy;
use mvps_core::collector::policy::ABANDON_AFTER;
use mvps_core::ids::ImageId;

const DAY: Duration = Duration::from_secs(86_400);

/// Delete what no version, snapshot, clone or server can reach any more.
///
/// One pass over all images, or over one. Safe beside running servers and other collectors, and
/// safe to kill at any time.
#[derive(Debug, Clone, Args)]
pub struct CollectorArgs {
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
    /// Object store.
    #[command(flatten)]
    pub object_store: ObjectStoreArgs,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

impl CollectorArgs {
    /// Parses a whole command line, the program's name first.
    ///
    /// # Errors
    /// What clap says; also for `--help` and `--version`, which it prints.
    pub fn parse(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let mut command = command();
        let matches = command.try_get_matches_from_mut(arguments)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
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

/// The flags, with the shorter names.
fn command() -> Command {
    let renamed =
        |short: &'static str, long: &'static str| move |flag: Arg| flag.long(short).alias(long);
    CollectorArgs::augment_args(Command::new("mvps-gc").version(env!("CARGO_PKG_VERSION")))
        .mut_arg(
            "image_store_s3_bucket",
            renamed("bucket", "image-store-s3-bucket"),
        )
        .mut_arg(
            "image_store_s3_prefix",
            renamed("prefix", "image-store-s3-prefix"),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<CollectorArgs, clap::Error> {
        CollectorArgs::parse(line.split(' '))
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
        command().debug_assert();
    }

    #[test]
    fn both_names_of_bucket_and_prefix_are_understood() {
        for line in [
            "mvps-gc --bucket b --prefix p/ --threshold-inactive-days 1",
            "mvps-gc --image-store-s3-bucket b --image-store-s3-prefix p \
             --threshold-inactive-days 1",
        ] {
            let args = CollectorArgs::parse(line.split_whitespace()).expect(line);
            let choice = args.object_store.choice().expect(line);
            assert_eq!(choice.to_string(), "s3://b/p/");
        }
        let help = command().render_long_help().to_string();
        assert!(help.contains("--bucket <BUCKET>") && help.contains("--prefix <PREFIX>"));
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
