//! Flags of `mvps token`.

use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use mvps_core::ids::ImageId;

use super::shared::DurabilityArg;
use crate::quantity::{ByteSize, parse_span};

/// `mvps token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The image.
    #[arg(long, env = "MVPS_TE_IMAGE", value_name = "IMAGE", value_parser = ImageId::parse)]
    pub image: ImageId,
    /// Size of the image: creates it if there is none, grows it if it is smaller.
    #[arg(long, env = "MVPS_TE_SIZE", value_name = "SIZE")]
    pub size: Option<ByteSize>,
    /// Page size: 4KiB, 8KiB, 16KiB, 32KiB or 64KiB [default: 4KiB if it creates the image, else
    /// whatever the image has].
    #[arg(long, env = "MVPS_TE_PAGE_SIZE", value_name = "SIZE")]
    pub page_size: Option<ByteSize>,
    /// A new connection with the same client id ends the previous one.
    #[arg(long, env = "MVPS_TE_CLIENT_ID", value_name = "ID")]
    pub client_id: Option<String>,
    /// Only for a client whose TLS certificate has this DNS name (see --tls-client-ca).
    #[arg(long, env = "MVPS_TE_TLS_CLIENT", value_name = "NAME")]
    pub tls_client: Option<String>,
    /// Refuse writes.
    #[arg(long, env = "MVPS_TE_READ_ONLY", value_parser = BoolishValueParser::new())]
    pub read_only: bool,
    /// Attach to this snapshot (read only).
    #[arg(
        long,
        env = "MVPS_TE_SNAPSHOT",
        value_name = "NAME",
        conflicts_with = "version"
    )]
    pub snapshot: Option<String>,
    /// Attach to this version (read only).
    #[arg(long, env = "MVPS_TE_VERSION", value_name = "NUMBER")]
    pub version: Option<u64>,
    /// What a flush of this client waits for [default: as the server says].
    #[arg(long, env = "MVPS_TE_DURABILITY", value_name = "KIND")]
    pub durability: Option<DurabilityArg>,
    /// How long the token is good for new connections.
    #[arg(
        long,
        env = "MVPS_TE_EXPIRES",
        value_name = "SPAN",
        default_value = "30d",
        value_parser = parse_span
    )]
    pub expires: Duration,
}
