//! Carries out what was parsed.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mvps::cli::OutputFormat;
use mvps::daemon::open_object_store;
use mvps::logging;
use mvps::runtime::{OsEntropy, TokioClock};
use mvps_core::collector::{CollectionReport, Collector, Observer};
use mvps_core::store::{Patience, RetryingStore, probe_conditional_create};

use crate::progress::Bar;
use crate::{CollectorArgs, summary};

/// How long one request may be retried. A pass that fails is done again; nothing waits for it.
const OBJECT_STORE_PATIENCE: Duration = Duration::from_secs(120);

/// The binary: parses the process's arguments, carries them out, and reports what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    let args = match CollectorArgs::parse(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    match carry_out(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // The last word of a process; a closed stderr leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "mvps-gc: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(args: &CollectorArgs) -> anyhow::Result<bool> {
    logging::start(&args.log.settings())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(passes(args))
}

/// One pass, or passes for ever. Whether everything went well.
async fn passes(args: &CollectorArgs) -> anyhow::Result<bool> {
    loop {
        let pass = pass(args).await;
        let Some(interval) = args.interval else {
            return pass;
        };
        if let Err(error) = pass {
            let _ = writeln!(std::io::stderr(), "mvps-gc: {error:#}");
        }
        tokio::time::sleep(interval).await;
    }
}

async fn pass(args: &CollectorArgs) -> anyhow::Result<bool> {
    let bar = Arc::new(Bar::new());
    let collector = open_collector(args, bar.clone()).await?;
    let report = collector.collect(args.image.as_ref()).await;
    bar.clear();
    let report = report.context("the images cannot be listed")?;
    print(args.output.output, &report)?;
    Ok(report.all_went_well())
}

/// A collector on the store that the flags name.
///
/// # Errors
/// If there is no such store, or it is none that a collector may publish to.
pub async fn open_collector(
    args: &CollectorArgs,
    observer: Arc<dyn Observer>,
) -> anyhow::Result<Collector> {
    let objects = open_object_store(&args.object_store.choice()?).await?;
    let clock = Arc::new(TokioClock::new());
    let entropy = Arc::new(OsEntropy);
    let requests_max = usize::from(args.concurrency);
    let store =
        RetryingStore::with_requests_max(objects, clock.clone(), entropy.clone(), requests_max)
            .with_patience(Patience::For(OBJECT_STORE_PATIENCE));
    if !args.dry_run {
        probe_conditional_create(&store, args.object_store.unsafe_no_fencing)
            .await
            // The error's own text has its source's already.
            .map_err(|error| anyhow::anyhow!("nothing was changed: {error}"))?;
    }
    Ok(Collector::new(
        store,
        clock,
        entropy,
        args.policy(),
        observer,
    ))
}

fn print(format: OutputFormat, report: &CollectionReport) -> anyhow::Result<()> {
    let text = match format {
        OutputFormat::Human => summary(report),
        OutputFormat::Json => serde_json::to_string_pretty(report)?,
    };
    writeln!(std::io::stdout().lock(), "{text}").context("the result cannot be printed")
}
