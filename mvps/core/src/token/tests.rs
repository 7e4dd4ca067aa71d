use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;

const NOW: WallTime = WallTime {
    unix_ms: 1_800_000_000_000,
};

const SAMPLE: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpbWFnZV9pZCI6IlRFU1RJTUctMDIubXZwcy1pbWFnZSIsImltYWdlX3NpemUiOjEwNzM3NDE4MjQsInBhZ2Vfc2l6ZV9iaXRzIjoxMiwiZXhwIjoxOTAxMTU0OTQxLCJjbGllbnRfaWQiOiJjOWVmZDk2Yy1kYTU5LTQzNTEtYjMxMS0zNTEyOTVmYTk4ZTIifQ.j-nR5Opn-pK6whrm8pJIgyItO5XvlYf0oy7RzR00T1Y";

fn keys() -> TokenKeys {
    TokenKeys::from_secret(b"insecure_token").unwrap()
}

/// Signs any claims whatever.
fn signed(claims: &Value, algorithm: Algorithm, secret: &[u8]) -> String {
    let key = EncodingKey::from_secret(secret);
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
}

fn admit(claims: &Value) -> Result<Grant, TokenError> {
    keys().admit(&signed(claims, Algorithm::HS256, b"insecure_token"), NOW)
}

#[test]
fn the_published_sample_is_accepted() {
    let grant = keys().admit(SAMPLE, NOW).unwrap();
    assert_eq!(grant.image.as_str(), "TESTIMG-02.mvps-image");
    assert_eq!(grant.size_bytes, Some(1_073_741_824));
    assert_eq!(grant.page_size, PageSize::from_bits(12));
    let client = grant.client.unwrap().to_string();
    assert_eq!(client, "c9efd96c-da59-4351-b311-351295fa98e2");
    assert!(!grant.read_only);
    assert_eq!(grant.shown, Shown::Newest);
    assert_eq!(grant.durability, None);
}

#[test]
fn expiry_is_judged_by_the_callers_clock() {
    let at = |seconds: u64| {
        let unix_ms = seconds * 1000;
        keys().admit(SAMPLE, WallTime { unix_ms })
    };
    assert!(at(0).is_ok());
    assert!(at(1_901_154_940).is_ok());
    assert!(matches!(at(1_901_154_941), Err(TokenError::Expired { .. })));
    assert!(matches!(at(4_000_000_000), Err(TokenError::Expired { .. })));
}

#[test]
fn absurd_claims_are_refused() {
    let good = json!({"image_id": "disk0", "exp": 1_900_000_000, "image_size": 1 << 20});
    assert!(admit(&good).is_ok());
    let cases = [
        ("exp", Value::Null),
        ("exp", json!(-1)),
        ("exp", json!("tomorrow")),
        ("exp", json!(1e300)),
        ("image_id", Value::Null),
        ("image_id", json!("")),
        ("image_id", json!("../../etc/passwd")),
        ("image_id", json!(".hidden")),
        ("image_id", json!("x".repeat(129))),
        ("image_id", json!(["disk0"])),
        ("image_size", json!(0)),
        ("image_size", json!(4095)),
        ("image_size", json!(-4096)),
        ("image_size", json!(i64::MAX)),
        ("image_size", json!(u64::MAX)),
        ("image_size", json!(4096.5)),
        ("page_size_bits", json!(11)),
        ("page_size_bits", json!(17)),
        ("page_size_bits", json!(268)),
        ("client_id", json!("")),
        ("client_id", json!("x".repeat(CLIENT_ID_MAX_BYTES + 1))),
        ("client_id", json!("a\nb")),
        ("read_only", json!("yes")),
        ("snapshot", json!("a/b")),
        ("version", json!(0)),
        ("durability", json!("none")),
        ("tls_client", json!("")),
        ("tls_client", json!("x".repeat(CLIENT_ID_MAX_BYTES + 1))),
        ("tls_client", json!(7)),
        // Past, and what only looks like a time.
        ("exp", json!(1_799_999_999)),
        ("exp", json!(-0.5)),
        ("exp", json!([1_900_000_000])),
        ("exp", json!(true)),
        ("image_id", json!("disk0\u{0}")),
        ("image_id", json!("disk0/../disk1")),
        ("image_id", json!("d\u{131}sk")),
    ];
    for (claim, value) in cases {
        let mut claims = good.clone();
        claims[claim] = value.clone();
        assert!(admit(&claims).is_err(), "{claim} = {value}");
    }
    let mut both = good.clone();
    both["snapshot"] = json!("monday");
    both["version"] = json!(3);
    assert!(admit(&both).is_err());
    let unaligned = json!({"image_id": "d", "exp": 1_900_000_000,
        "page_size_bits": 16, "image_size": 4096});
    assert!(admit(&unaligned).is_err());
}

#[test]
fn largest_size_is_accepted() {
    let claims = json!({"image_id": "d", "exp": 1_900_000_000.5, "page_size_bits": 16,
        "image_size": IMAGE_SIZE_MAX_BYTES});
    assert_eq!(
        admit(&claims).unwrap().size_bytes,
        Some(IMAGE_SIZE_MAX_BYTES)
    );
}

#[test]
fn versions_and_snapshots_are_read_only_and_create_nothing() {
    for (claim, value) in [
        ("version", json!(7)),
        ("snapshot", json!("monday")),
        ("read_only", json!(true)),
    ] {
        let mut claims = json!({"image_id": "d", "exp": 1_900_000_000, "image_size": 4096});
        claims[claim] = value;
        let grant = admit(&claims).unwrap();
        assert!(grant.read_only, "{claim}");
        assert_eq!(grant.size_bytes, None, "{claim}");
    }
}

#[test]
fn the_algorithm_is_the_keys() {
    let claims = json!({"image_id": "disk0", "exp": 1_900_000_000});
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = signed(&claims, algorithm, b"insecure_token");
        assert!(keys().admit(&token, NOW).is_err());
    }
    let other_secret = signed(&claims, Algorithm::HS256, b"another");
    assert!(keys().admit(&other_secret, NOW).is_err());

    // {"alg":"none","typ":"JWT"} and no signature.
    let payload = SAMPLE.split('.').nth(1).unwrap();
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
    assert!(keys().admit(&none, NOW).is_err());

    // A public key is no secret: a token that was signed with its text must not be accepted.
    let public = TokenKeys::from_public_key(ED25519_PUBLIC.as_bytes()).unwrap();
    let confused = signed(&claims, Algorithm::HS256, ED25519_PUBLIC.as_bytes());
    assert!(public.admit(&confused, NOW).is_err());
    assert!(public.admit(SAMPLE, NOW).is_err());
    assert!(public.and(keys()).admit(SAMPLE, NOW).is_ok());
}

#[test]
fn no_token_is_no_token() {
    let cut = &SAMPLE[..SAMPLE.len() - 1];
    for text in ["", ".", "..", "...", "disk0", "a.b.c", cut, &SAMPLE[1..]] {
        assert!(keys().admit(text, NOW).is_err(), "{text}");
    }
}

#[test]
fn errors_and_debug_output_hide_token_and_secret() {
    let error = keys().admit(&SAMPLE[1..], NOW).unwrap_err();
    let shown = format!("{error} {error:?} {:?}", keys());
    assert!(!shown.contains("eyJ") && !shown.contains("insecure_token"));
    assert!(!shown.contains("TESTIMG"));
}

#[test]
fn minted_tokens_are_accepted_and_bad_ones_not_minted() {
    let image = ImageId::parse("disk0").unwrap();
    let mut token = NewToken::new(&image, 1_900_000_000);
    token.image_size = Some(10 << 30);
    token.durability = Some(DurabilityClaim::ObjectStore);
    let text = token.sign(b"insecure_token", NOW).unwrap();
    let grant = keys().admit(&text, NOW).unwrap();
    assert_eq!(grant.image, image);
    assert_eq!(grant.size_bytes, Some(10 << 30));
    assert_eq!(grant.durability, Some(DurabilityClaim::ObjectStore));

    assert!(token.sign(b"", NOW).is_err());
    token.image_size = Some(10);
    assert!(token.sign(b"insecure_token", NOW).is_err());
    let expired = NewToken::new(&image, 1_700_000_000);
    assert!(expired.sign(b"insecure_token", NOW).is_err());
}

/// Keys made for these tests with openssl; they protect nothing.
const ED25519_PUBLIC: &str = include_str!("testdata/ed25519-public.pem");

#[test]
fn public_keys_of_every_kind() {
    let claims = json!({"image_id": "disk0", "exp": 1_900_000_000});
    let cases = [
        (
            Algorithm::EdDSA,
            ED25519_PUBLIC,
            EncodingKey::from_ed_pem(include_bytes!("testdata/ed25519-private.pem")),
        ),
        (
            Algorithm::ES256,
            include_str!("testdata/p256-public.pem"),
            EncodingKey::from_ec_pem(include_bytes!("testdata/p256-private.pem")),
        ),
        (
            Algorithm::RS256,
            include_str!("testdata/rsa-public.pem"),
            EncodingKey::from_rsa_pem(include_bytes!("testdata/rsa-private.pem")),
        ),
    ];
    for (algorithm, public, private) in cases {
        let private = private.unwrap();
        let keys = TokenKeys::from_public_key(public.as_bytes()).unwrap();
        let token = jsonwebtoken::encode(&Header::new(algorithm), &claims, &private).unwrap();
        let grant = keys.admit(&token, NOW).unwrap();
        assert_eq!(grant.image.as_str(), "disk0", "{algorithm:?}");
        let mut forged = token.into_bytes();
        let last = forged.len() - 10;
        forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        assert!(keys.admit(&forged, NOW).is_err(), "{algorithm:?}");
    }
    assert!(TokenKeys::from_public_key(b"not a key").is_err());
    let private = include_bytes!("testdata/ed25519-private.pem");
    assert!(TokenKeys::from_public_key(private).is_err());
}

/// What attackers send in place of a token: nothing of it is accepted, whichever key is pinned.
#[test]
fn no_key_accepts_a_token_of_another_kind() {
    let claims = json!({"image_id": "disk0", "exp": 1_900_000_000});
    let publics = [
        ED25519_PUBLIC,
        include_str!("testdata/p256-public.pem"),
        include_str!("testdata/rsa-public.pem"),
    ];
    let private = [
        (
            Algorithm::EdDSA,
            EncodingKey::from_ed_pem(include_bytes!("testdata/ed25519-private.pem")),
        ),
        (
            Algorithm::ES256,
            EncodingKey::from_ec_pem(include_bytes!("testdata/p256-private.pem")),
        ),
        (
            Algorithm::RS256,
            EncodingKey::from_rsa_pem(include_bytes!("testdata/rsa-private.pem")),
        ),
    ];
    let mut tokens: Vec<_> = private
        .into_iter()
        .map(|(algorithm, key)| {
            jsonwebtoken::encode(&Header::new(algorithm), &claims, &key.unwrap()).unwrap()
        })
        .collect();
    for (own, public) in publics.iter().enumerate() {
        let keys = TokenKeys::from_public_key(public.as_bytes()).unwrap();
        for (number, token) in tokens.iter().enumerate() {
            assert_eq!(keys.admit(token, NOW).is_ok(), number == own, "key {own}");
        }
        // The text of the key taken for a secret, in every length of HMAC.
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let confused = signed(&claims, algorithm, public.as_bytes());
            assert!(keys.admit(&confused, NOW).is_err(), "{algorithm:?}");
        }
    }
    let payload = SAMPLE.split('.').nth(1).unwrap();
    let signature = SAMPLE.split('.').nth(2).unwrap();
    // {"alg":"none"} and {"alg":"None"}, with and without the signature of a good token.
    for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJOb25lIn0"] {
        tokens.push(format!("{header}.{payload}."));
        tokens.push(format!("{header}.{payload}"));
        tokens.push(format!("{header}.{payload}.{signature}"));
    }
    tokens.push(format!("{SAMPLE}.{signature}"));
    tokens.push(format!("{SAMPLE}="));
    tokens.push(format!(" {SAMPLE}"));
    tokens.push(SAMPLE.replace('.', ".."));
    for token in tokens {
        assert!(keys().admit(&token, NOW).is_err(), "{token}");
    }
}

/// Whoever connects may send anything as a token; the log is not theirs to write.
#[test]
fn a_refusal_repeats_nothing_of_the_token() {
    let header = r#"{"alg":"FORGED\nLINE","typ":"FORGED"}"#;
    let encoded = URL_SAFE_NO_PAD.encode(header);
    for token in [
        format!("{encoded}.e30.AAAA"),
        "FORGED\nLINE".to_owned(),
        "FORGED.FORGED.FORGED".to_owned(),
    ] {
        let refused = keys().admit(&token, NOW).unwrap_err().to_string();
        assert!(!refused.contains("FORGED"), "{refused}");
        assert!(!refused.contains("LINE"), "{refused}");
    }
}
