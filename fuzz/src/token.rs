//! Export names: any text, and any claims that the right key signed.
//!
//! Oracle: what was not signed with the pinned algorithm is refused; what a grant says lies within
//! every limit.

use jsonwebtoken::{Algorithm, EncodingKey};
use mvps_core::env::WallTime;
use mvps_core::ids::ImageId;
use mvps_core::nbd::IMAGE_SIZE_MAX_BYTES;
use mvps_core::token::{Grant, Shown, TokenKeys};

const SECRET: &[u8] = b"a secret of these targets";
const NOW: WallTime = WallTime {
    unix_ms: 1_800_000_000_000,
};

/// `{"alg":"HS256","typ":"JWT"}`
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// One input: what to do with it, then the text.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    let keys = TokenKeys::from_secret(SECRET).expect("a secret");
    match kind % 3 {
        // Any text. The fuzzer cannot know the secret.
        0 => {
            if let Ok(text) = std::str::from_utf8(body) {
                assert!(keys.admit(text, NOW).is_err(), "accepted: {text:?}");
            }
        }
        // Signed claims.
        1 => {
            let message = format!("{HEADER}.{}", base64(body));
            if let Ok(grant) = keys.admit(&signed(&message), NOW) {
                judge(&grant, body);
            }
        }
        // A signed message with a header of any kind.
        _ => {
            let split = body.iter().position(|byte| *byte == b'\n');
            let (header, claims) = body.split_at(split.unwrap_or(body.len()));
            let message = format!(
                "{}.{}",
                base64(header),
                base64(claims.get(1..).unwrap_or(&[]))
            );
            if keys.admit(&signed(&message), NOW).is_ok() {
                let header = String::from_utf8_lossy(header);
                assert!(header.contains("256"), "accepted the header {header}");
            }
        }
    }
}

fn judge(grant: &Grant, claims: &[u8]) {
    assert!(ImageId::parse(grant.image.as_str()).is_ok());
    let page_bytes = grant.page_size_of_new().bytes() as u64;
    if let Some(size_bytes) = grant.size_bytes {
        assert!(size_bytes > 0 && size_bytes <= IMAGE_SIZE_MAX_BYTES);
        assert_eq!(size_bytes % page_bytes, 0);
        assert!(!grant.read_only, "a read-only token creates nothing");
    }
    assert!(grant.read_only || grant.shown == Shown::Newest);
    let claims = String::from_utf8_lossy(claims);
    assert!(
        claims.contains("exp") || claims.contains('\\'),
        "no expiry in {claims}"
    );
}

fn signed(message: &str) -> String {
    let key = EncodingKey::from_secret(SECRET);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
    format!("{message}.{}", signature.expect("a secret signs anything"))
}

/// Without padding (RFC 4648 §5).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = 0;
        for position in 0..3 {
            group = group << 8 | u32::from(chunk.get(position).copied().unwrap_or(0));
        }
        for digit in 0..=chunk.len() {
            let value = group >> (18 - 6 * digit) & 63;
            text.push(char::from(DIGITS[value as usize]));
        }
    }
    text
}
