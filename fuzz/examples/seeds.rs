//! Writes the seeds that are made, not captured: golden records, and what mvps's own two sides say
//! to each other. `cargo run --example seeds` from this directory, after a format or the protocol
//! changed. Those that are captured from real clients come from `cargo ci fuzz --capture`.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use mvps_core::format::codec::ObjectSeed;
use mvps_core::format::frame::FrameEncoder;
use mvps_core::ids::{PageNumber, PageSize};
use mvps_core::nbd::{
    ClientNegotiation, Cookie, Export, ExportName, Framing, Negotiation, Opening, Request,
    SimpleReply, Step, ZeroFlags,
};

/// Where the golden records are, from this directory.
const SNAPSHOTS: &str = "../mvps/core/src/format";

/// Golden record, target, the byte that selects the record there.
const GOLDEN: &[(&str, &str, &[u8])] = &[
    (
        "manifest/snapshots/mvps_core__format__manifest__tests__golden",
        "manifest",
        &[],
    ),
    (
        "segment/snapshots/mvps_core__format__segment__tests__golden_index",
        "segment",
        &[0],
    ),
    (
        "segment/snapshots/mvps_core__format__segment__tests__header",
        "segment",
        &[1],
    ),
    (
        "segment/snapshots/mvps_core__format__segment__tests__footer",
        "segment",
        &[2],
    ),
    (
        "map_object/snapshots/mvps_core__format__map_object__tests__golden_leaf",
        "map_object",
        &[0],
    ),
    (
        "map_object/snapshots/mvps_core__format__map_object__tests__golden_root",
        "map_object",
        &[1],
    ),
    (
        "map_object/snapshots/mvps_core__format__map_object__tests__header",
        "map_object",
        &[2],
    ),
    (
        "map_object/snapshots/mvps_core__format__map_object__tests__footer",
        "map_object",
        &[3],
    ),
    (
        "buffer_metadata/snapshots/mvps_core__format__buffer_metadata__tests__full",
        "buffer_metadata",
        &[],
    ),
    (
        "buffer_metadata/snapshots/mvps_core__format__buffer_metadata__tests__empty",
        "buffer_metadata",
        &[],
    ),
];

const ENVELOPE_HEADER_BYTES: usize = 12;
const ENVELOPE_TRAILER_BYTES: usize = 8;

fn main() {
    for (number, (snapshot, target, selector)) in GOLDEN.iter().enumerate() {
        let path = format!("{SNAPSHOTS}/{snapshot}.snap");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let record = bytes_of(&text);
        let body = &record[ENVELOPE_HEADER_BYTES..record.len() - ENVELOPE_TRAILER_BYTES];
        write(
            target,
            &format!("golden-{number}"),
            &[selector, body].concat(),
        );
    }
    frames();
    tokens();
    let export_name = |no_zeroes| Opening::ExportName { no_zeroes };
    // The last number is by what `client` knows the opening.
    for (name, opening, selector) in [
        ("go", Opening::Go, 128),
        ("export-name-zeroes", export_name(false), 129),
        ("export-name", export_name(true), 130),
        ("info", Opening::Describe, 131),
    ] {
        conversation(name, opening, selector);
    }
    requests();
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let directory = Path::new("seeds").join(target);
    fs::create_dir_all(&directory).expect("a directory for seeds");
    fs::write(directory.join(name), bytes).expect("a seed can be written");
}

/// The bytes of a hex dump in a snapshot.
fn bytes_of(snapshot: &str) -> Vec<u8> {
    let dump = snapshot
        .splitn(3, "---\n")
        .nth(2)
        .expect("a snapshot has a head");
    let words = dump
        .lines()
        .flat_map(|line| line.split_whitespace().skip(1));
    words
        .map(|word| u8::from_str_radix(word, 16).expect("hexadecimal"))
        .collect()
}

fn frames() {
    let page_size = PageSize::from_bits(12).expect("in range");
    let seed = ObjectSeed::of_key("a segment");
    let page = vec![7; page_size.bytes()];
    let pages = [
        (PageNumber(1), &page[..]),
        (PageNumber(2), &page),
        (PageNumber(9), &page),
    ];
    let mut out = Vec::new();
    FrameEncoder::new(Some(1)).encode(seed, page_size, None, &pages, &mut out);
    write("segment", "frame-zstd", &[&[3], &out[8..]].concat());
}

fn tokens() {
    let claims = [
        r#"{"image_id":"disk0","exp":1900000000,"image_size":1048576}"#,
        r#"{"image_id":"a.b-c_d","exp":1900000000.5,"page_size_bits":16,"read_only":true}"#,
        r#"{"image_id":"d","exp":1900000000,"snapshot":"m","client_id":"c","durability":"local"}"#,
        r#"{"image_id":"d","exp":1900000000,"version":7,"tls_client":"host-1"}"#,
    ];
    for (number, claims) in claims.iter().enumerate() {
        write(
            "token",
            &format!("claims-{number}"),
            &[&[1], claims.as_bytes()].concat(),
        );
        for (name, header) in [
            ("hs256", r#"{"alg":"HS256"}"#),
            ("none", r#"{"alg":"none"}"#),
        ] {
            let message = format!("{header}\n{claims}");
            write(
                "token",
                &format!("{name}-{number}"),
                &[&[2], message.as_bytes()].concat(),
            );
        }
    }
    write(
        "token",
        "text",
        b"\0eyJhbGciOiJub25lIn0.eyJpbWFnZV9pZCI6ImQifQ.",
    );
}

/// What client and server say to each other, each side for the other one's target.
fn conversation(name: &str, opening: Opening, selector: u8) {
    let export_name = ExportName::new("d".to_owned()).expect("it is short");
    let mut client = ClientNegotiation::new(export_name, opening);
    let (mut from_client, mut from_server) = (BytesMut::new(), BytesMut::new());
    let mut server = Negotiation::begin(&mut from_server);
    let mut greeting = from_server.clone();
    client
        .step(&mut greeting, &mut from_client)
        .expect("a good greeting");
    let mut input = from_client.clone();
    if let Ok(Step::Wanted(_)) = server.step(&mut input, &mut from_server) {
        server.grant(&export(), &mut from_server);
    }
    write("negotiation", name, &[&[0], &from_client[..]].concat());
    let mut said = vec![selector];
    said.extend_from_slice(&from_server);
    for (cookie, content) in [(1, 512), (2, 0), (3, 0), (4, 1)] {
        let reply = SimpleReply {
            cookie: Cookie(cookie),
            result: Ok(()),
        };
        said.extend_from_slice(&reply.encode());
        said.resize(said.len() + content, 9);
    }
    write("client", name, &said);
}

fn export() -> Export {
    Export {
        size_bytes: 65536,
        preferred_block_bytes: 4096,
        read_only: false,
        can_multi_conn: true,
        name: "disk0".to_owned(),
        description: "mvps image disk0".to_owned(),
    }
}

fn requests() {
    let fua = true;
    let write_page = |offset: u64, length: u32| Request::Write {
        offset,
        length,
        fua,
    };
    let read = |offset: u64, length: u32| Request::Read {
        offset,
        length,
        whole: false,
    };
    let status = |offset: u64, length: u64, one: bool| Request::BlockStatus {
        offset,
        length,
        one,
    };
    let plain = [
        write_page(4096, 4096),
        read(0, 8192),
        Request::Trim {
            offset: 0,
            length: 8192,
            fua,
        },
        Request::WriteZeroes {
            offset: 100,
            length: 5000,
            flags: ZeroFlags {
                fua,
                ..ZeroFlags::default()
            },
        },
        write_page(65530, 6),
        write_page(65535, 2),
        read(65535, 2),
        Request::Flush,
        read(4000, 200),
        Request::Read {
            offset: 0,
            length: 16384,
            whole: true,
        },
        status(0, 65536, false),
        status(4095, 2, true),
    ];
    let transaction = [
        Request::Begin,
        write_page(0, 600),
        read(0, 700),
        status(0, 16384, false),
        Request::Lock,
        write_page(0, 0),
        Request::Commit { fua },
        read(0, 4096),
        Request::Begin,
        write_page(9000, 12),
        Request::Rollback,
        Request::Commit { fua },
    ];
    // As `requests` numbers them: what is negotiated.
    let forms = [
        ("", 0, Framing::Simple),
        ("-structured", 2, Framing::Structured),
        ("-extended", 4, Framing::Extended),
    ];
    for (form, number, framing) in forms {
        for (name, requests) in [("plain", &plain[..]), ("transaction", &transaction[..])] {
            let mut bytes = vec![number << 4];
            for (cookie, request) in (1..).zip(requests) {
                assert!(request.encode(framing, Cookie(cookie), &mut bytes));
                let payload = Bytes::from(vec![0xaa; request.payload_bytes() as usize]);
                bytes.extend_from_slice(&payload);
            }
            write("requests", &format!("{name}{form}"), &bytes);
            bytes[0] |= 0x83;
            bytes.splice(1..1, [7, 30, 200]);
            write(
                "requests",
                &format!("{name}{form}-read-only-in-pieces"),
                &bytes,
            );
        }
    }
}
