//! Flags of `mvps txn`, which is a client.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use mvps_core::env::Address;
use mvps_core::ids::ImageId;

use crate::quantity::parse_address;

/// `mvps txn`.
#[derive(Debug, Args)]
#[command(
    after_help = "One change a line, offsets and lengths in bytes or like 4KiB; # begins a \
comment:\n  OFFSET HEX            write these bytes\n  OFFSET @FILE          write a file's \
content\n  OFFSET zero LENGTH    make these bytes zeroes\n  OFFSET trim LENGTH    free the whole \
pages among them"
)]
pub struct TxnArgs {
    /// The list; - is standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    pub list: PathBuf,
    /// The image; the token is made with the server's secret.
    #[arg(
        long,
        env = "MVPS_TE_IMAGE",
        value_name = "IMAGE",
        value_parser = ImageId::parse,
        required_unless_present = "token"
    )]
    pub image: Option<ImageId>,
    /// Attach with this token instead.
    #[arg(
        long,
        env = "MVPS_TE_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        conflicts_with = "image"
    )]
    pub token: Option<String>,
    /// The server: host:port or unix:/path.
    #[arg(
        long,
        env = "MVPS_TE_CONNECT",
        value_name = "ADDRESS",
        value_parser = parse_address,
        default_value = "127.0.0.1:10809"
    )]
    pub connect: Address,
    /// How to encrypt.
    #[command(flatten)]
    pub tls: ClientTlsArgs,
    /// Return only when the changes are durable.
    #[arg(long, env = "MVPS_TE_DURABLE", value_parser = BoolishValueParser::new())]
    pub durable: bool,
}

/// How a client encrypts its connection, and whom it trusts.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "TLS")]
pub struct ClientTlsArgs {
    /// Encrypt before the token is sent, and only to a server whose certificate one of these
    /// signed, as a PEM file.
    #[arg(long, env = "MVPS_TE_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The name that the server's certificate must be for [default: the host of --connect;
    /// localhost on a unix socket].
    #[arg(
        long,
        env = "MVPS_TE_TLS_SERVER_NAME",
        value_name = "NAME",
        requires = "tls_ca"
    )]
    pub tls_server_name: Option<String>,
    /// The certificate to show, as a PEM file.
    #[arg(
        long,
        env = "MVPS_TE_TLS_CLIENT_CERT",
        value_name = "FILE",
        requires_all = ["tls_ca", "tls_client_key"]
    )]
    pub tls_client_cert: Option<PathBuf>,
    /// Its private key, as a PEM file.
    #[arg(
        long,
        env = "MVPS_TE_TLS_CLIENT_KEY",
        value_name = "FILE",
        requires = "tls_client_cert"
    )]
    pub tls_client_key: Option<PathBuf>,
}
