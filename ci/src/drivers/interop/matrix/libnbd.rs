//! Cells of libnbd's own tools.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::super::images::IMAGE_BYTES;
use super::super::scripts::tool;
use super::cell::{At, CLIENT_LIMIT, PAGE_BYTES};
use crate::rig::command::{Finished, run};
use crate::rig::disk::Disk;
use crate::rig::image_file;
use crate::rig::machine::{as_root, system};

/// How much is copied.
const CONTENT_BYTES: u64 = 64 * 1024 * 1024;

/// What every script over libnbd begins with: connecting by hand, because nbdsh lets a URI name no
/// certificates.
const CONNECT: &str = "\
import os
h.set_uri_allow_local_file(True)
h.add_meta_context('base:allocation')
h.connect_uri(os.environ['URI'])
";

/// Runs a script on a connection to `uri`.
///
/// # Errors
/// If it fails.
pub fn nbdsh(uri: &str, script: &str) -> Result<Finished> {
    let mut nbdsh = system("nbdsh");
    nbdsh.args(["--command", CONNECT, "--command", script]);
    run(nbdsh.env("URI", uri), CLIENT_LIMIT)
}

/// The context of which every server tells.
const ALLOCATION: &str = "base:allocation";

/// `nbdinfo` shows what the export can do.
pub fn information(at: &At<'_>) -> Result<String> {
    let output = tool("nbdinfo", &["--json", &at.way.uri("info")])?.stdout;
    let json: Value = serde_json::from_str(&output)?;
    ensure!(
        json["structured"] == true,
        "no structured packets: {output}"
    );
    let export = &json["exports"][0];
    let abilities = [
        "can_cache",
        "can_df",
        "can_fast_zero",
        "can_flush",
        "can_fua",
        "can_multi_conn",
        "can_trim",
        "can_zero",
    ];
    for ability in abilities {
        ensure!(export[ability] == true, "{ability} is {}", export[ability]);
    }
    let sizes = [
        ("block_size_minimum", 1),
        ("block_size_preferred", PAGE_BYTES),
        ("block_size_maximum", 32 << 20),
    ];
    for (size, expected) in sizes {
        ensure!(export[size] == expected, "{size} is {}", export[size]);
    }
    let contexts = export["contexts"].to_string();
    ensure!(contexts.contains("base:allocation"), "contexts {contexts}");
    Ok(format!(
        "{} abilities, contexts {contexts}",
        abilities.len()
    ))
}

/// Writes, trims and zeroes, then compares the map with what must be there, page for page.
pub fn map(at: &At<'_>) -> Result<String> {
    let uri = at.way.uri("map");
    let pages = usize::try_from(IMAGE_BYTES / PAGE_BYTES)?;
    let mut expected = vec![false; pages];
    let mut script = String::new();
    let mut seed: u64 = 7;
    for step in 0..200 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let first = usize::try_from(seed >> 33)? % (pages - 70);
        let count = 1 + usize::try_from(seed >> 20)? % 64;
        let (offset, length) = (first as u64 * PAGE_BYTES, count as u64 * PAGE_BYTES);
        let written = step % 3 != 0;
        expected[first..first + count].fill(written);
        script += &match step % 6 {
            0 => format!("h.trim({length}, {offset})\n"),
            3 => format!("h.zero({length}, {offset})\n"),
            _ => format!("h.pwrite(b'x' * {length}, {offset})\n"),
        };
    }
    nbdsh(&uri, &script)?;
    let found = pages_of_map(&uri, ALLOCATION, is_stored)?;
    compare(&found, &expected)?;
    // The same from object storage.
    at.daemon.checkpoint(&at.way.claims("map").image)?;
    let found = pages_of_map(&uri, ALLOCATION, is_stored)?;
    compare(&found, &expected)?;
    Ok(format!("{pages} pages as they were written, twice"))
}

fn is_stored(kind: u64) -> Result<bool> {
    match kind {
        0 => Ok(true),
        // A hole that reads as zeroes.
        3 => Ok(false),
        _ => bail!("type {kind}"),
    }
}

/// Compares what changed since a snapshot with what was written, page for page.
pub fn changed_since(at: &At<'_>) -> Result<String> {
    let uri = at.way.uri("since");
    let write = |script: &str| nbdsh(&uri, script);
    write("h.pwrite(b'1' * 65536, 0); h.pwrite(b'1' * 65536, 1 << 20)")?;
    let image = at.way.claims("since").image;
    let snapshot = format!("{image}@then");
    at.daemon
        .setup()
        .operate(&["snapshot", "create", &snapshot])?;
    write("h.pwrite(b'2' * 4096, 8192); h.trim(8192, 1 << 20); h.pwrite(b'2', (1 << 24) + 5)")?;
    let context = "mvps:changed-since:then";
    let found = pages_of_map(&uri, context, |kind| match kind {
        0 => Ok(false),
        1 => Ok(true),
        _ => bail!("type {kind}"),
    })?;
    let mut expected = vec![false; found.len()];
    for page in [2, 256, 257, 4096] {
        expected[page] = true;
    }
    compare(&found, &expected)?;
    Ok("4 pages, and no other".to_owned())
}

/// What `nbdinfo --map` says of every page; the extents must cover the image without a gap.
fn pages_of_map(
    uri: &str,
    context: &str,
    is_set: impl Fn(u64) -> Result<bool>,
) -> Result<Vec<bool>> {
    let map = format!("--map={context}");
    let output = tool("nbdinfo", &[&map, "--json", uri])?.stdout;
    let extents: Vec<Value> = serde_json::from_str(&output)?;
    let mut pages = Vec::new();
    for extent in &extents {
        let number = |name: &str| extent[name].as_u64().context("a number in the map");
        let (offset, length) = (number("offset")?, number("length")?);
        let at = pages.len() as u64 * PAGE_BYTES;
        ensure!(offset == at, "a gap at {at}: {output}");
        ensure!(length % PAGE_BYTES == 0, "a part of a page: {output}");
        let count = usize::try_from(length / PAGE_BYTES)?;
        pages.resize(pages.len() + count, is_set(number("type")?)?);
    }
    Ok(pages)
}

fn compare(found: &[bool], expected: &[bool]) -> Result<()> {
    ensure!(found.len() == expected.len(), "{} pages", found.len());
    let mut pairs = found.iter().zip(expected);
    let differs = pairs.position(|(found, expected)| found != expected);
    ensure!(
        differs.is_none(),
        "page {differs:?} is not as it was written"
    );
    Ok(())
}

/// `nbdcopy` copies in and out.
pub fn copy(at: &At<'_>) -> Result<String> {
    let (input, output) = (at.place.join("in.raw"), at.place.join("out.raw"));
    image_file::write(&input, CONTENT_BYTES, 3)?;
    let uri = at.way.uri("copy");
    let many = ["--connections=4", "--requests=32"];
    let (from, to) = (input.to_string_lossy(), output.to_string_lossy());
    tool("nbdcopy", &[&many[..], &["--flush", &from, &uri]].concat())?;
    tool("nbdcopy", &[&many[..], &[&uri, &to]].concat())?;
    image_file::compare(&input, &output, CONTENT_BYTES)?;
    Ok("identical".to_owned())
}

/// Chunks, extents, flags and errors, as libnbd shows them.
pub fn script(at: &At<'_>) -> Result<String> {
    let script = "\
assert h.get_structured_replies_negotiated()
assert h.can_meta_context('base:allocation')
h.pwrite(b'a' * 8192, 4096, nbd.CMD_FLAG_FUA)
assert h.pread(16384, 0) == bytes(4096) + b'a' * 8192 + bytes(4096)
chunks = []
def chunk(data, offset, status, error):
    chunks.append((offset, len(data), status))
h.pread_structured(16384, 0, chunk)
assert chunks == [(0, 4096, nbd.READ_HOLE), (4096, 8192, nbd.READ_DATA),
    (12288, 4096, nbd.READ_HOLE)], chunks
chunks.clear()
h.pread_structured(16384, 0, chunk, nbd.CMD_FLAG_DF)
assert chunks == [(0, 16384, nbd.READ_DATA)], chunks
extents = []
def extent(context, offset, entries, error):
    extents.extend(entries)
h.block_status(16384, 0, extent)
assert extents == [4096, 3, 8192, 0, 4096, 3], extents
extents.clear()
h.block_status(16384, 0, extent, nbd.CMD_FLAG_REQ_ONE)
assert extents == [4096, 3], extents
h.cache(16384, 0)
h.zero(8192, 4096, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(16384, 0) == bytes(16384)
try:
    h.zero(100, 10, nbd.CMD_FLAG_FAST_ZERO)
    raise SystemExit('a part of a page is no fast zero')
except nbd.Error as error:
    assert error.errno == 'ENOTSUP', error
h.set_strict_mode(0)
try:
    h.pread(1, h.get_size())
    raise SystemExit('read beyond the end')
except nbd.Error as error:
    assert error.errno == 'EINVAL', error
assert h.pread(1, 0) == bytes(1)
";
    nbdsh(&at.way.uri("sh"), script)?;
    Ok("chunks, DF, extents, cache, fast zero, errnos".to_owned())
}

/// `nbdfuse` shows the image as a file, and a loop device makes that a disk.
pub fn fuse(at: &At<'_>) -> Result<String> {
    let copy = at.place.join("copy.raw");
    let how = match &at.way.authority {
        None => fuse_and_loop(at, &copy)?,
        Some(authority) => {
            // A file in a mount namespace of its own, which no loop device outside would see.
            let script = "nbdfuse \"$0/disk\" \"$1\" & \
                for _ in $(seq 500); do test -f \"$0/disk\" && break; sleep 0.02; done; \
                dd if=/dev/urandom of=\"$0/disk\" bs=1M count=4 conv=notrunc,fsync; written=$?; \
                dd if=\"$0/disk\" of=\"$2\" bs=1M count=4; read=$?; \
                fusermount3 -u \"$0\" && wait $! && exit $((written + read))";
            let mount_point = at.place.join("fuse");
            std::fs::create_dir_all(&mount_point)?;
            let mut inner = system("bash");
            inner.args(["-c", script]).arg(&mount_point);
            let secure = authority.uri_without_files(&at.way.listen, &at.way.claims("fuse").sign());
            inner.arg(secure).arg(&copy);
            run(&mut authority.as_of_root(&inner), CLIENT_LIMIT)?;
            "as a file"
        }
    };
    let found = at.place.join("found.raw");
    tool("nbdcopy", &[&at.way.uri("fuse"), &found.to_string_lossy()])?;
    image_file::compare(&copy, &found, 4 << 20)?;
    Ok(how.to_owned())
}

/// Writes 4 MiB through a loop device and reads them to `copy`.
fn fuse_and_loop(at: &At<'_>, copy: &Path) -> Result<&'static str> {
    let disk = Disk::attach(&at.way.uri("fuse"), at.place)?;
    let output = format!("of={}", disk.device);
    let mut write = as_root("dd");
    write.args(["if=/dev/urandom", &output, "bs=1M", "count=4", "conv=fsync"]);
    let written = run(&mut write, CLIENT_LIMIT);
    let mut read = as_root("dd");
    read.arg(format!("if={}", disk.device));
    read.arg(format!("of={}", copy.display()));
    let read = run(
        read.args(["bs=1M", "count=4", "iflag=direct"]),
        CLIENT_LIMIT,
    );
    disk.detach()?;
    written?;
    read?;
    Ok("through a loop device")
}
