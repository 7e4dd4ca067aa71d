//! The result of an operator's command, for people or as JSON.

use super::args::OutputFormat;

/// The text of `value` in the wanted format.
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
