//! Flags that several subcommands take, and `mvps-gc` too.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mvps_core::engine::Durability;
use mvps_core::token::DurabilityClaim;

use crate::logging::LogSettings;

/// Where acknowledged writes wait for their checkpoint.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Buffer store")]
pub struct BufferStoreArgs {
    /// Folder of the buffer stores and of the control socket. Belongs to one server; survives
    /// restarts.
    #[arg(
        long,
        env = "MVPS_TE_BUFFER_STORE_PATH",
        value_name = "DIR",
        default_value = "./mvps-data/buffer"
    )]
    pub buffer_store_path: PathBuf,
}

/// How to log. Logs go to stderr.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// For people or for machines.
    #[arg(
        long,
        env = "MVPS_TE_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "human"
    )]
    pub log_format: LogFormat,
    /// A level (error, warn, info, debug, trace) or a filter such as info,mvps_core=debug.
    #[arg(
        long,
        env = "MVPS_TE_LOG_LEVEL",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log_level: String,
}

impl LogArgs {
    /// What the flags ask for.
    #[must_use]
    pub fn settings(&self) -> LogSettings {
        LogSettings {
            filter: self.log_level.clone(),
            json: self.log_format == LogFormat::Json,
        }
    }
}

/// Shapes of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line per event.
    Human,
    /// One JSON object per event.
    Json,
}

/// When a flush counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DurabilityArg {
    /// When the buffer store is synced.
    Local,
    /// When a checkpoint that holds it is published.
    ObjectStore,
}

impl From<DurabilityArg> for DurabilityClaim {
    fn from(durability: DurabilityArg) -> Self {
        match durability {
            DurabilityArg::Local => Self::Local,
            DurabilityArg::ObjectStore => Self::ObjectStore,
        }
    }
}

impl From<DurabilityArg> for Durability {
    fn from(durability: DurabilityArg) -> Self {
        match durability {
            DurabilityArg::Local => Self::Local,
            DurabilityArg::ObjectStore => Self::ObjectStore,
        }
    }
}

/// Shape of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Human,
    /// One JSON document.
    Json,
}

/// How to print the result.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// For people or for machines.
    #[arg(
        long,
        env = "MVPS_TE_OUTPUT",
        value_name = "FORMAT",
        default_value = "human"
    )]
    pub output: OutputFormat,
}
