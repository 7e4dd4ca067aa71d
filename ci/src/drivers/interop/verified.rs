//! fio with its own checksums: mixed sizes at depth, trims beside it, trims under verification.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::images::IMAGE_BYTES;
use crate::rig::fio;
use crate::rig::report::Report;
use crate::rig::server::Server;

/// How long one fio run may take.
const FIO_LIMIT: Duration = Duration::from_secs(120);

/// Runs the checks against `server`.
pub fn checks(report: &mut Report, area: &str, server: &mut dyn Server) {
    report.check(area, "fio mixed 4k-128k qd32 crc32c + trim", || {
        mixed(server)
    });
    report.check(area, "fio randtrimwrite qd1 verify", || trim_write(server));
}

/// Mixed random reads and writes verified over the first three quarters, trims in the last.
fn mixed(server: &mut dyn Server) -> Result<String> {
    let uri = server.uri("fio-mixed", IMAGE_BYTES)?;
    let verified = IMAGE_BYTES / 4 * 3;
    let mut command = fio::nbd(&uri);
    command.args([
        "--name=mixed",
        "--rw=randrw",
        "--bsrange=4k-128k",
        "--iodepth=32",
    ]);
    command.args(["--verify=crc32c", "--verify_fatal=1", "--do_verify=1"]);
    command.args(["--offset=0", &format!("--size={verified}"), "--randseed=11"]);
    command.args([
        "--name=trim",
        "--rw=randtrim",
        "--bsrange=4k-128k",
        "--iodepth=8",
    ]);
    command.arg(format!("--offset={verified}"));
    command.args([
        &format!("--size={}", IMAGE_BYTES / 4),
        "--verify=0",
        "--randseed=12",
    ]);
    let jobs = fio::jobs(&mut command, FIO_LIMIT)?;
    let mib = |job: &Value, kind: &str| job[kind]["io_bytes"].as_u64().unwrap_or(0) >> 20;
    let (read, written) = (mib(&jobs[0], "read"), mib(&jobs[0], "write"));
    let trimmed = mib(&jobs[1], "trim");
    ensure!(
        written > 0 && trimmed > 0,
        "wrote {written}, trimmed {trimmed} MiB"
    );
    Ok(format!(
        "{read} MiB read, {written} written, {trimmed} trimmed"
    ))
}

/// Trims each block before writing it, and verifies; at depth 1, because fio 3.33 falsely fails
/// this at more.
fn trim_write(server: &mut dyn Server) -> Result<String> {
    let uri = server.uri("fio-trimwrite", IMAGE_BYTES)?;
    let mut command = fio::nbd(&uri);
    command.args([
        "--name=trimwrite",
        "--rw=randtrimwrite",
        "--bs=16k",
        "--iodepth=1",
    ]);
    command.args([
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--size=64m",
    ]);
    let jobs = fio::jobs(&mut command, FIO_LIMIT)?;
    let count = |kind: &str| jobs[0][kind]["total_ios"].as_u64().unwrap_or(0);
    let (writes, trims, reads) = (count("write"), count("trim"), count("read"));
    ensure!(
        writes > 0 && trims > 0 && reads > 0,
        "{writes} {trims} {reads}"
    );
    Ok(format!("{writes} writes, {trims} trims, {reads} verified"))
}
