//! An image that is loaded and judged: how it is attached to, and what is found in it.

use anyhow::{Context, Result, bail, ensure};
use mvps_core::client::{Client, ClientError};

use super::content;
use super::history::{Stamp, UNIT_BYTES};
use crate::rig::client::attach;
use crate::rig::daemon::Setup;
use crate::rig::token::Claims;

/// How much one request of a whole-image read asks for.
const READ_UNITS: u32 = 1024;

/// One image under load.
#[derive(Debug, Clone)]
pub struct Target {
    /// The daemon.
    pub setup: Setup,
    /// How to attach.
    pub claims: Claims,
    /// The image's number in its units.
    pub image: u64,
    /// Its size.
    pub units: u32,
}

/// Reads a whole image.
///
/// # Errors
/// If a read fails, or a unit is not as any write made it.
pub async fn read_image(client: &Client, image: u64, units: u32) -> Result<Vec<(u32, Stamp)>> {
    let mut seen = Vec::with_capacity(units as usize);
    let mut first = 0;
    while first < units {
        let count = READ_UNITS.min(units - first);
        let length = count * u32::try_from(UNIT_BYTES).expect("a unit is small");
        let offset = u64::from(first) * UNIT_BYTES;
        let bytes = client.read(offset, length).await;
        let bytes = bytes.with_context(|| format!("reading at {offset}"))?;
        seen.extend(content::decode(image, first, &bytes)?);
        first += count;
    }
    Ok(seen)
}

/// What the image holds now, unit by unit.
///
/// # Errors
/// If it does not open, or a unit is not as any write made it.
pub async fn find(target: &Target) -> Result<Vec<(u32, Stamp)>> {
    let client = attach(&target.setup, &target.claims).await?;
    let found = read_image(&client, target.image, target.units).await?;
    client.disconnect().await;
    Ok(found)
}

/// A buffer store that knows nothing of the image's tenure must not be opened with.
///
/// # Errors
/// If the image opens, or the operator is not told what to do. (The client is not the operator:
/// it learns only that the log says more.)
pub async fn must_refuse(target: &Target) -> Result<()> {
    match attach(&target.setup, &target.claims).await {
        Err(ClientError::Refused(_)) => {
            let command = format!("mvps image takeover {}", target.claims.image);
            let log = std::fs::read_to_string(&target.setup.log)?;
            ensure!(log.contains(&command), "the log does not name `{command}`");
            Ok(())
        }
        Err(other) => bail!("not refused, but: {other}"),
        Ok(_) => bail!("the image opened on a buffer store that is not its own"),
    }
}
