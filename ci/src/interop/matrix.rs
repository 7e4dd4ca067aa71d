//! Every client by every way in, as a table: each cell is a check with an image of its own.
//!
//! What clients are asked to show here is what the protocol has beyond reads and writes: structured
//! replies, metadata contexts, block sizes, several connections, caching, fast zeroes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::IMAGE_BYTES;
use super::scripts::{tool, tool_any};
use crate::command::run;
use crate::daemon::{Daemon, Listen};
use crate::filesystem::Disk;
use crate::fio;
use crate::image_file;
use crate::machine::{as_root, system};
use crate::report::Report;
use crate::token::Claims;

/// How long one cell may take.
const CELL_LIMIT: Duration = Duration::from_secs(120);

/// Bytes of a page, as images have them here.
const PAGE_BYTES: u64 = 4096;

/// How much is copied.
const CONTENT_BYTES: u64 = 64 * 1024 * 1024;

/// A way to a daemon: a column of the table.
pub struct Way {
    name: &'static str,
    listen: Listen,
}

impl Way {
    /// The way through `listen`, called `name`.
    pub fn new(name: &'static str, listen: Listen) -> Self {
        Self { name, listen }
    }

    /// The URI of an image of [`IMAGE_BYTES`] by this way.
    fn uri(&self, image: &str) -> String {
        let image = format!("matrix-{}-{image}", self.name);
        self.listen.uri(&Claims::image(&image, IMAGE_BYTES).sign())
    }
}

type Cell = fn(&Way, &Path) -> Result<String>;

/// The rows.
const CLIENTS: &[(&str, Cell)] = &[
    ("nbdinfo", information),
    ("nbdinfo --map", map),
    ("nbdcopy, 4 connections", nbdcopy),
    ("nbdsh", nbdsh),
    ("nbdfuse", nbdfuse),
    ("qemu-img info, map", qemu_map),
    ("qemu-img convert", qemu_convert),
    ("qemu-img bench", qemu_bench),
    ("qemu-nbd in front", qemu_nbd),
    ("fio", fio_verify),
    ("nbd-client -N", nbd_client),
    ("nbdkit nbd in front", nbdkit),
];

/// Runs all cells and prints the table.
pub fn checks(report: &mut Report, area: &str, _: &Daemon, ways: &[Way], directory: &Path) {
    let mut table = String::new();
    for (client, cell) in CLIENTS {
        table += &format!("  {client:<26}");
        for way in ways {
            let name = format!("{client}, {}", way.name);
            let passed = report.check(area, &name, || {
                let place = directory.join(format!("matrix-{}", way.name));
                std::fs::create_dir_all(&place)?;
                cell(way, &place)
            });
            table += if passed { " ok    " } else { " FAILED" };
        }
        table.push('\n');
    }
    let names: Vec<String> = ways.iter().map(|way| format!(" {:<6}", way.name)).collect();
    println!(
        "\nmatrix on {area}\n  {:<26}{}\n{table}",
        "",
        names.concat()
    );
}

fn information(way: &Way, _: &Path) -> Result<String> {
    let output = tool("nbdinfo", &["--json", &way.uri("information")])?.stdout;
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
fn map(way: &Way, _: &Path) -> Result<String> {
    let uri = way.uri("map");
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
    tool("nbdsh", &["--uri", &uri, "--command", &script])?;
    let output = tool("nbdinfo", &["--map", "--json", &uri])?.stdout;
    let extents: Vec<Value> = serde_json::from_str(&output)?;
    let mut found = Vec::with_capacity(pages);
    for extent in &extents {
        let number = |name: &str| extent[name].as_u64().context("a number in the map");
        ensure!(
            number("offset")? == found.len() as u64 * PAGE_BYTES,
            "a gap in {output}"
        );
        let count = usize::try_from(number("length")? / PAGE_BYTES)?;
        let kind = number("type")?;
        ensure!(kind == 0 || kind == 3, "type {kind}");
        found.resize(found.len() + count, kind == 0);
    }
    let differs = found
        .iter()
        .zip(&expected)
        .position(|(found, expected)| found != expected);
    ensure!(
        found.len() == pages && differs.is_none(),
        "page {differs:?} of {pages} is not as it was written: {output}"
    );
    Ok(format!("{pages} pages in {} extents", extents.len()))
}

fn nbdcopy(way: &Way, place: &Path) -> Result<String> {
    let (input, output) = (place.join("in.raw"), place.join("out.raw"));
    image_file::write(&input, CONTENT_BYTES, 3)?;
    let uri = way.uri("nbdcopy");
    let many = ["--connections=4", "--requests=32"];
    let (from, to) = (input.to_string_lossy(), output.to_string_lossy());
    tool("nbdcopy", &[&many[..], &["--flush", &from, &uri]].concat())?;
    tool("nbdcopy", &[&many[..], &[&uri, &to]].concat())?;
    image_file::compare(&input, &output, CONTENT_BYTES)?;
    Ok("identical".to_owned())
}

fn nbdsh(way: &Way, _: &Path) -> Result<String> {
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
    let uri = way.uri("nbdsh");
    tool(
        "nbdsh",
        &["--uri", &uri, "--base-allocation", "--command", script],
    )?;
    Ok("chunks, DF, extents, cache, fast zero, errnos".to_owned())
}

fn nbdfuse(way: &Way, place: &Path) -> Result<String> {
    let disk = Disk::attach(&way.uri("nbdfuse"), place)?;
    let output = format!("of={}", disk.device);
    let mut write = as_root("dd");
    write.args(["if=/dev/zero", &output, "bs=1M", "count=4", "conv=fsync"]);
    let written = run(&mut write, CELL_LIMIT);
    disk.detach()?;
    written?;
    Ok("through a loop device".to_owned())
}

fn qemu_map(way: &Way, _: &Path) -> Result<String> {
    let uri = way.uri("qemu-map");
    tool("qemu-io", &["-f", "raw", "-c", "write 1M 64k", &uri])?;
    let info = tool("qemu-img", &["info", "--output=json", &uri])?.stdout;
    let info: Value = serde_json::from_str(&info)?;
    ensure!(info["virtual-size"] == IMAGE_BYTES, "info {info}");
    let output = tool("qemu-img", &["map", "--output=json", "-f", "raw", &uri])?.stdout;
    let extents: Vec<Value> = serde_json::from_str(&output)?;
    let data = extents.iter().filter(|extent| extent["data"] == true);
    let data: Vec<_> = data
        .map(|extent| (&extent["start"], &extent["length"]))
        .collect();
    ensure!(
        data == [(&Value::from(1 << 20), &Value::from(64 << 10))],
        "map {output}"
    );
    Ok("one extent where 64 KiB were written".to_owned())
}

fn qemu_convert(way: &Way, place: &Path) -> Result<String> {
    let input = place.join("convert.raw");
    image_file::write(&input, IMAGE_BYTES, 4)?;
    let (uri, input) = (way.uri("qemu-convert"), input.to_string_lossy());
    let copy = ["convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw"];
    tool("qemu-img", &[&copy[..], &[&input, &uri]].concat())?;
    tool(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &input, &uri],
    )?;
    Ok("identical".to_owned())
}

fn qemu_bench(way: &Way, _: &Path) -> Result<String> {
    let uri = way.uri("qemu-bench");
    let bench = [
        "bench", "-w", "-f", "raw", "-c", "2000", "-d", "32", "-s", "4096",
    ];
    let flushing = ["--flush-interval=200"];
    tool("qemu-img", &[&bench[..], &flushing, &[&uri]].concat())?;
    Ok("2000 writes at depth 32, flushes between".to_owned())
}

fn qemu_nbd(way: &Way, place: &Path) -> Result<String> {
    let socket = place.join("qemu-nbd.sock");
    let mut server = system("qemu-nbd");
    server.args(["--format=raw", "--shared=4", "--persistent", "--socket"]);
    server.arg(&socket).arg(way.uri("qemu-nbd"));
    let mut server = server.spawn().context("qemu-nbd")?;
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let script = "h.pwrite(b'b' * 4096, 8192); h.flush(); assert h.pread(4096, 8192)[0] == 98";
    let mut done = Ok(());
    for _ in 0..100 {
        done = tool("nbdsh", &["--uri", &uri, "--command", script]).map(drop);
        if done.is_ok() || socket.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    server.kill()?;
    server.wait()?;
    done?;
    Ok("read and written through it".to_owned())
}

fn fio_verify(way: &Way, _: &Path) -> Result<String> {
    let mut command = fio::nbd(&way.uri("fio"));
    command.args(["--name=verify", "--rw=randwrite", "--bsrange=512-64k"]);
    command.args([
        "--iodepth=16",
        "--size=32m",
        "--verify=crc32c",
        "--verify_fatal=1",
    ]);
    let jobs = fio::jobs(&mut command, CELL_LIMIT)?;
    let read = jobs[0]["read"]["io_bytes"].as_u64().unwrap_or(0) >> 20;
    ensure!(read > 0, "nothing was verified");
    Ok(format!("{read} MiB verified"))
}

/// Without a kernel module nbd-client negotiates, prints the size and fails for want of a device.
fn nbd_client(way: &Way, _: &Path) -> Result<String> {
    let token = Claims::image(&format!("matrix-{}-client", way.name), IMAGE_BYTES).sign();
    let device = "/dev/nbd15";
    let answer = match &way.listen {
        Listen::Tcp(address) => {
            let (host, port) = (address.ip().to_string(), address.port().to_string());
            tool_any("nbd-client", &["-N", &token, &host, &port, device])?
        }
        Listen::Unix(socket) => {
            let socket = socket.to_string_lossy();
            tool_any("nbd-client", &["-N", &token, "-unix", &socket, device])?
        }
    };
    if answer.status.success() {
        tool("nbd-client", &["-d", device])?;
    }
    let expected = format!("size = {}MB", IMAGE_BYTES / (1024 * 1024));
    ensure!(
        answer.output().contains(&expected),
        "no {expected:?} in {}",
        answer.output()
    );
    Ok(expected)
}

fn nbdkit(way: &Way, _: &Path) -> Result<String> {
    let inner = format!("uri={}", way.uri("nbdkit"));
    let script = "nbdsh --uri \"$uri\" --base-allocation --command '
h.pwrite(b\"c\" * 4096, 4096); h.flush()
assert h.pread(4096, 4096) == b\"c\" * 4096
extents = []
h.block_status(12288, 0, lambda context, offset, entries, error: extents.extend(entries))
assert extents == [4096, 3, 4096, 0, 4096, 3], extents
assert h.can_fast_zero() and h.can_multi_conn() and h.can_cache()
'";
    tool("nbdkit", &["-U", "-", "nbd", &inner, "--run", script])?;
    Ok("extents and abilities go through".to_owned())
}
