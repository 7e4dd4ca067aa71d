//! `mvps token`: makes tokens with the server's secret.

use anyhow::{Context as _, bail};
use mvps_core::env::{Clock as _, WallTime};
use mvps_core::ids::{ImageId, PAGE_SIZE_BITS, PageSize};
use mvps_core::token::NewToken;

use super::args::TokenArgs;
use crate::daemon::JwtSecret;
use crate::quantity::ByteSize;
use crate::runtime::TokioClock;

/// The token that the flags ask for.
///
/// # Errors
/// If there is no secret, or no server would accept such a token.
pub fn make(args: &TokenArgs) -> anyhow::Result<String> {
    let secret = JwtSecret::of_environment_or_embedded()?;
    sign(args, &secret, TokioClock::new().wall())
}

/// How long a token is good that is made for one connection at once.
const AT_ONCE_SECONDS: u64 = 300;

/// A token for one connection to an image that exists.
///
/// # Errors
/// As [`make`].
pub fn for_one_connection(image: &ImageId) -> anyhow::Result<String> {
    let secret = JwtSecret::of_environment_or_embedded()?;
    let now = TokioClock::new().wall();
    let token = NewToken::new(image, now.unix_ms / 1000 + AT_ONCE_SECONDS);
    Ok(token.sign(secret.bytes(), now)?)
}

fn sign(args: &TokenArgs, secret: &JwtSecret, now: WallTime) -> anyhow::Result<String> {
    let expires_unix_ms = u128::from(now.unix_ms)
        .saturating_add(args.expires.as_millis())
        .div_ceil(1000);
    let exp = u64::try_from(expires_unix_ms).context("--expires is too far away")?;
    let mut token = NewToken::new(&args.image, exp);
    token.image_size = args.size.map(|size| size.0);
    token.page_size_bits = args.page_size.map(page_size_bits).transpose()?;
    token.client_id.clone_from(&args.client_id);
    token.read_only = args.read_only.then_some(true);
    token.snapshot.clone_from(&args.snapshot);
    token.version = args.version;
    token.tls_client.clone_from(&args.tls_client);
    token.durability = args.durability.map(Into::into);
    token
        .sign(secret.bytes(), now)
        .context("no server would accept this token")
}

fn page_size_bits(size: ByteSize) -> anyhow::Result<u8> {
    let found = PAGE_SIZE_BITS
        .filter_map(PageSize::from_bits)
        .find(|page_size| page_size.bytes() as u64 == size.0);
    match found {
        Some(page_size) => Ok(page_size.bits()),
        None => bail!("--page-size {size}: use 4KiB, 8KiB, 16KiB, 32KiB or 64KiB"),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use mvps_core::token::{DurabilityClaim, Shown, TokenKeys};

    use super::super::args::Command;
    use super::super::parse::parse;
    use super::*;

    const NOW: WallTime = WallTime {
        unix_ms: 1_700_000_000_000,
    };

    fn sign_line(flags: &str) -> anyhow::Result<String> {
        let line = format!("mvps token {flags}");
        let parsed = parse(line.split_whitespace().map(OsString::from)).expect("parses");
        let Command::Token(args) = parsed.command else {
            panic!("{line}")
        };
        sign(&args, &JwtSecret::of_test("s3cr3t"), NOW)
    }

    fn later(seconds: u64) -> WallTime {
        WallTime {
            unix_ms: NOW.unix_ms + seconds * 1000,
        }
    }

    #[test]
    fn a_server_reads_what_the_flags_said() {
        let keys = TokenKeys::from_secret(b"s3cr3t").expect("keys");
        let token = sign_line(
            "--image disk0 --size 10GiB --page-size 16KiB --client-id me --expires 1h --tls-client host-1 \
             --durability object-store",
        );
        let token = token.expect("signed");
        let grant = keys.admit(&token, later(3599)).expect("admitted");
        assert_eq!(grant.image.as_str(), "disk0");
        assert_eq!(grant.size_bytes, Some(10 << 30));
        assert_eq!(grant.page_size.map(PageSize::bytes), Some(16 << 10));
        assert_eq!(
            grant.client.map(|client| client.to_string()).as_deref(),
            Some("me")
        );
        assert_eq!(grant.durability, Some(DurabilityClaim::ObjectStore));
        assert!(!grant.read_only);
        assert_eq!(grant.tls_client.as_deref(), Some("host-1"));
        keys.admit(&token, later(3600)).expect_err("expired");

        let token = sign_line("--image disk0 --snapshot monday").expect("signed");
        let grant = keys.admit(&token, later(29 * 86_400)).expect("admitted");
        assert_eq!(grant.shown, Shown::Snapshot("monday".to_owned()));
        assert!(grant.read_only);
    }

    #[test]
    fn what_no_server_accepts_is_not_signed() {
        for flags in [
            "--image disk0 --size 10000",
            "--image disk0 --size 0",
            "--image disk0 --page-size 5000",
            "--image disk0 --version 0",
            "--image disk0 --expires 0s",
        ] {
            sign_line(flags).expect_err(flags);
        }
    }
}
