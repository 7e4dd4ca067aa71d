//! libnbd's and QEMU's own tools: information, copies in and out, patterns, a script.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use super::images::IMAGE_BYTES;
use crate::rig::command::{Finished, run, run_any};
use crate::rig::image_file;
use crate::rig::machine::system;
use crate::rig::report::Report;
use crate::rig::server::Server;

/// How long one tool may take.
const TOOL_LIMIT: Duration = Duration::from_secs(60);

/// How much is copied in and out.
const CONTENT_BYTES: u64 = 128 * 1024 * 1024;

/// Runs a system program that must succeed.
pub fn tool(program: &str, arguments: &[&str]) -> Result<Finished> {
    run(system(program).args(arguments), TOOL_LIMIT)
}

/// Runs a system program, whatever its exit status.
pub fn tool_any(program: &str, arguments: &[&str]) -> Result<Finished> {
    run_any(system(program).args(arguments), TOOL_LIMIT)
}

/// Runs the checks against `server`.
pub fn checks(report: &mut Report, area: &str, server: &mut dyn Server, directory: &Path) {
    report.check(area, "nbdinfo", || information(server));
    report.check(area, "nbdcopy in, out, compare", || {
        nbdcopy(server, directory)
    });
    report.check(area, "qemu-img convert in, out, compare", || {
        qemu_img(server, directory)
    });
    report.check(area, "qemu-io patterns", || qemu_io(server));
    report.check(area, "nbdsh script", || nbdsh(server));
}

fn information(server: &mut dyn Server) -> Result<String> {
    let uri = server.uri("information", IMAGE_BYTES)?;
    let output = tool("nbdinfo", &["--json", &uri])?.stdout;
    let json: Value = serde_json::from_str(&output)?;
    let export = &json["exports"][0];
    ensure!(
        json["protocol"] == "newstyle-fixed",
        "protocol {}",
        json["protocol"]
    );
    ensure!(
        export["export-size"] == IMAGE_BYTES,
        "size {}",
        export["export-size"]
    );
    ensure!(export["is_read_only"] == false, "read only");
    for ability in ["can_flush", "can_fua", "can_trim", "can_zero"] {
        ensure!(export[ability] == true, "{ability} is {}", export[ability]);
    }
    let sizes = [
        "block_size_minimum",
        "block_size_preferred",
        "block_size_maximum",
    ];
    let sizes = sizes.map(|size| export[size].to_string());
    let multi = &export["can_multi_conn"];
    Ok(format!(
        "block sizes {}, multi-conn {multi}",
        sizes.join("/")
    ))
}

fn nbdcopy(server: &mut dyn Server, directory: &Path) -> Result<String> {
    let (input, output) = (directory.join("in.raw"), directory.join("out.raw"));
    image_file::write(&input, CONTENT_BYTES, 1)?;
    let uri = server.uri("nbdcopy", IMAGE_BYTES)?;
    let written = tool("nbdcopy", &["--flush", &input.to_string_lossy(), &uri])?;
    let read = tool("nbdcopy", &[&uri, &output.to_string_lossy()])?;
    image_file::compare(&input, &output, CONTENT_BYTES)?;
    let rest = std::fs::metadata(&output)?.len();
    ensure!(rest == IMAGE_BYTES, "copied out {rest} bytes");
    Ok(format!("{} in, {} out", rate(&written), rate(&read)))
}

/// The rate of copying the content, for orientation only.
fn rate(finished: &Finished) -> String {
    let mib = CONTENT_BYTES / (1024 * 1024);
    let mib = f64::from(u32::try_from(mib).expect("a content of MiB"));
    format!("{:.0} MiB/s", mib / finished.elapsed.as_secs_f64())
}

fn qemu_img(server: &mut dyn Server, directory: &Path) -> Result<String> {
    let (raw, qcow2) = (directory.join("qemu.raw"), directory.join("qemu.qcow2"));
    let back = directory.join("back.raw");
    let (raw_name, qcow2_name) = (raw.to_string_lossy(), qcow2.to_string_lossy());
    image_file::write(&raw, IMAGE_BYTES, 2)?;
    let to_qcow2 = [
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        &raw_name,
        &qcow2_name,
    ];
    tool("qemu-img", &to_qcow2)?;
    let uri = server.uri("qemu-img", IMAGE_BYTES)?;
    let copy_in = [
        "convert",
        "-n",
        "-f",
        "qcow2",
        "-O",
        "raw",
        &qcow2_name,
        &uri,
    ];
    tool("qemu-img", &copy_in)?;
    tool(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &raw_name, &uri],
    )?;
    let back_name = back.to_string_lossy();
    tool(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "raw", &uri, &back_name],
    )?;
    image_file::compare(&raw, &back, IMAGE_BYTES)?;
    Ok("identical through qcow2".to_owned())
}

fn qemu_io(server: &mut dyn Server) -> Result<String> {
    let uri = server.uri("qemu-io", IMAGE_BYTES)?;
    let commands = [
        "write -P 0xab 0 1M",
        "write -P 0xcd 1000 3000",
        "read -P 0xab 0 1000",
        "read -P 0xcd 1000 3000",
        "read -P 0xab 4000 1000k",
        "write -z 64k 64k",
        "read -P 0 64k 64k",
        "write -z -u 8M 1M",
        "read -P 0 8M 1M",
        "write -f -P 0x11 16M 128k",
        "discard 16M 64k",
        "read -P 0x11 16448k 64k",
        "aio_write -P 0x22 20M 64k",
        "aio_write -P 0x33 21M 64k",
        "aio_flush",
        "read -P 0x22 20M 64k",
        "read -P 0x33 21M 64k",
        "write -P 0x44 255M 1M",
        "flush",
        "read -P 0x44 255M 1M",
    ];
    let mut arguments = vec!["-f", "raw"];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(&uri);
    let output = tool("qemu-io", &arguments)?.output();
    if output.contains("verification failed") || output.contains("failed:") {
        bail!("{output}");
    }
    Ok(format!("{} commands", commands.len()))
}

/// What a script over libnbd sees: flags of single commands, requests in flight, errors after
/// which the connection goes on.
const SCRIPT: &str = r#"
import os
size = h.get_size()
assert size == int(os.environ["SIZE"]), size
a, b = bytes([0x5a]) * 4096, bytes(range(256)) * 16
h.pwrite(a, 0, nbd.CMD_FLAG_FUA)
assert h.pread(4096, 0) == a
h.pwrite(b, 8192)
h.pwrite(b"xyz", 8192 + 100)
got = h.pread(4096, 8192)
assert got[:100] == b[:100] and got[100:103] == b"xyz" and got[103:] == b[103:]
h.zero(4096, 0)
assert h.pread(4096, 0) == bytes(4096)
h.pwrite(a, 0)
h.zero(10, 5, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(20, 0) == a[:5] + bytes(10) + a[:5]
h.pwrite(a * 4, 65536)
h.trim(16384, 65536)
h.flush()
assert h.pread(1, size - 1) == b"\0"

try:
    h.set_strict_mode(h.get_strict_mode() & ~nbd.STRICT_BOUNDS)
    h.pread(4096, size)
    assert False, "a read behind the end succeeded"
except nbd.Error as error:
    assert error.errno in ("EINVAL", "ENOSPC"), error
try:
    h.pwrite(a, size - 100)
    assert False, "a write over the end succeeded"
except nbd.Error as error:
    assert error.errno in ("ENOSPC", "EINVAL"), error
assert h.pread(4, 8192) == b[:4], "the connection goes on after errors"

buffers = [nbd.Buffer.from_bytearray(bytearray([i]) * 4096) for i in range(64)]
cookies = [h.aio_pwrite(buffer, (1 << 20) + i * 4096) for i, buffer in enumerate(buffers)]
while h.aio_in_flight() > 0:
    h.poll(-1)
for cookie in cookies:
    assert h.aio_command_completed(cookie)
for i in range(64):
    assert h.pread(4096, (1 << 20) + i * 4096) == bytes([i]) * 4096

big = os.urandom(32 << 20)
h.pwrite(big, 64 << 20)
assert h.pread(32 << 20, 64 << 20) == big
other = nbd.NBD()
other.connect_uri(os.environ["URI"])
assert other.pread(4096, 8192) == h.pread(4096, 8192)
other.shutdown()
print("script passed")
"#;

fn nbdsh(server: &mut dyn Server) -> Result<String> {
    let uri = server.uri("nbdsh", IMAGE_BYTES)?;
    let mut nbdsh = system("nbdsh");
    nbdsh
        .args(["--uri", &uri, "--command", SCRIPT])
        .env("SIZE", IMAGE_BYTES.to_string())
        .env("URI", &uri);
    let finished = run(&mut nbdsh, TOOL_LIMIT)?;
    ensure!(
        finished.stdout.contains("script passed"),
        "{}",
        finished.output()
    );
    Ok("FUA, partial pages, zeroes, trim, bounds, 64 in flight, 32 MiB".to_owned())
}
