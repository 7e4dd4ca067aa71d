//! Logs: structured events on stderr.
//!
//! Never: tokens and secrets. The types that hold them print nothing of them.

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// A level, or a filter as tracing has them.
    pub filter: String,
    /// One JSON object per event, instead of one line for people.
    pub json: bool,
}

/// Starts logging for the rest of the process, panics included.
///
/// # Errors
/// If the filter cannot be understood, or logging was started already.
pub fn start(settings: &LogSettings) -> anyhow::Result<()> {
    let filter = filter(&settings.filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = if settings.json {
        builder.json().flatten_event(true).try_init()
    } else {
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
        builder.with_ansi(colours).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, message, "panic; this is a bug in mvps");
    }));
    Ok(())
}

/// Crates below that say much at `info` are heard from `warn` unless the operator names them.
fn filter(text: &str) -> anyhow::Result<EnvFilter> {
    let quieted = format!("aws_config=warn,aws_smithy_runtime=warn,hyper=warn,{text}");
    EnvFilter::builder()
        .parse(quieted)
        .with_context(|| format!("--log-level {text}: write error, warn, info, debug, trace or a filter such as info,mvps_core=debug"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for text in [
            "info",
            "debug",
            "info,mvps_core=trace",
            "warn,mvps::daemon=debug",
        ] {
            filter(text).expect(text);
        }
        filter("info,=x=").expect_err("nonsense");
    }
}
