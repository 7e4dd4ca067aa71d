//! The image: its name, its size, and what every page of it must hold.

use anyhow::{Result, ensure};
use mvps_core::client::Client;
use tokio::runtime::Runtime;

use crate::rig::numbers::Numbers;

/// Its name.
pub const IMAGE: &str = "big";

/// Below this in the bucket.
pub const PREFIX: &str = "b/";

/// How large, and how much of it is read.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Size of the image in GiB.
    #[arg(long, default_value_t = 1024)]
    pub size_gib: u64,
    /// Every so many pages one is written: 4 makes 64 Mi pages of a TiB.
    #[arg(long, default_value_t = 4)]
    pub every: u64,
    /// Random reads.
    #[arg(long, default_value_t = 20_000)]
    pub reads: u64,
    /// Clones.
    #[arg(long, default_value_t = 100)]
    pub clones: u32,
}

/// Reads `reads` pages anywhere, which must be as they were made, but for those of `except`.
///
/// # Errors
/// Names the first page that holds something else.
pub fn read_all_over(
    runtime: &Runtime,
    client: &Client,
    options: &Options,
    reads: u64,
    except: &[u64],
) -> Result<()> {
    let mut numbers = Numbers::new(7);
    for _ in 0..reads {
        let page = numbers.next() % (options.size_gib << 18);
        if except.contains(&page) {
            continue;
        }
        let data = runtime.block_on(client.read(page << 12, 4096))?;
        let stamp = u64::from_le_bytes(data[..8].try_into()?);
        let expected = match page.is_multiple_of(options.every) {
            true => page + 1,
            false => 0,
        };
        ensure!(stamp == expected, "page {page} holds {stamp}");
    }
    Ok(())
}
