//! Cells of fio, nbd-client, nbdkit and mvps's own client.

use std::process::Command;

use anyhow::{Result, ensure};

use super::super::images::IMAGE_BYTES;
use super::cell::{At, CLIENT_LIMIT};
use super::libnbd::nbdsh;
use crate::rig::command::{Finished, run, run_any};
use crate::rig::daemon::Listen;
use crate::rig::fio;
use crate::rig::machine::system;

/// fio writes at random and verifies.
pub fn fio_verify(at: &At<'_>) -> Result<String> {
    let uri = at.way.uri("fio");
    let mut fio = fio::nbd(&uri);
    if let Some(authority) = &at.way.authority {
        // It lets a URI name no files.
        let secure = authority.uri_without_files(&at.way.listen, &at.way.claims("fio").sign());
        fio = authority.as_of_root(&fio::nbd(&secure));
    }
    fio.args(["--name=verify", "--rw=randwrite", "--bsrange=512-64k"]);
    fio.args(["--iodepth=16", "--size=32m", "--verify=crc32c"]);
    fio.args(["--verify_fatal=1", "--do_verify=1"]);
    let jobs = fio::jobs(&mut fio, CLIENT_LIMIT)?;
    let read = jobs[0]["read"]["io_bytes"].as_u64().unwrap_or(0) >> 20;
    ensure!(read > 0, "nothing was verified");
    Ok(format!("{read} MiB verified"))
}

/// Runs nbd-client with what it needs to reach the daemon.
fn nbd_client(at: &At<'_>, words: &[&str], device: Option<&str>) -> Result<Finished> {
    let mut command = system("nbd-client");
    command.args(words);
    match &at.way.listen {
        Listen::Tcp(address) => {
            command
                .arg(address.ip().to_string())
                .arg(address.port().to_string());
        }
        Listen::Unix(socket) => {
            command.arg("-unix").arg(socket);
        }
    }
    command.args(device);
    if let Some(authority) = &at.way.authority {
        command.args(["-enable-tls", "-tlshostname", "localhost"]);
        command.args(["-cacertfile", &authority.file("ca-cert.pem")]);
    }
    run_any(&mut command, CLIENT_LIMIT)
}

/// nbd-client asks for the list of exports, which is refused.
pub fn list(at: &At<'_>) -> Result<String> {
    let answer = nbd_client(at, &["-l"], None)?;
    let output = answer.output();
    let leaked = ["m-", "eyJ"].iter().find(|name| output.contains(**name));
    ensure!(leaked.is_none(), "LIST told {leaked:?}: {output}");
    ensure!(output.contains("not allowed"), "not refused: {output}");
    Ok("refused".to_owned())
}

/// Without a kernel module nbd-client negotiates, prints the size and fails for want of a device.
pub fn negotiate(at: &At<'_>) -> Result<String> {
    let token = at.way.claims("cl").sign();
    let device = "/dev/nbd15";
    let answer = nbd_client(at, &["-N", &token], Some(device))?;
    if answer.status.success() {
        run(system("nbd-client").args(["-d", device]), CLIENT_LIMIT)?;
    }
    let (output, mib) = (answer.output(), IMAGE_BYTES / (1024 * 1024));
    let expected = format!("size = {mib}MB");
    ensure!(output.contains(&expected), "no {expected:?} in {output}");
    Ok(expected)
}

/// nbdkit's `nbd` plugin attaches and serves the image to another client.
pub fn nbdkit(at: &At<'_>) -> Result<String> {
    let script = "nbdsh --command '
h.add_meta_context(\"base:allocation\")
h.connect_uri(\"'\"$uri\"'\")
h.pwrite(b\"c\" * 8192, 4096); h.trim(4096, 4096); h.flush()
assert h.pread(8192, 4096) == bytes(4096) + b\"c\" * 4096
extents = []
h.block_status(16384, 0, lambda context, offset, entries, error: extents.extend(entries))
assert extents == [8192, 3, 4096, 0, 4096, 3], extents
assert h.can_fast_zero() and h.can_multi_conn() and h.can_cache()
'";
    let mut nbdkit: Command = system("nbdkit");
    nbdkit.args(["-U", "-", "nbd", "shared=false"]);
    let token = at.way.claims("kit").sign();
    match &at.way.authority {
        None => nbdkit.arg(format!("uri={}", at.way.listen.uri(&token))),
        // It lets a URI name no files.
        Some(authority) => {
            let uri = authority.uri_without_files(&at.way.listen, &token);
            nbdkit.arg(format!("uri={uri}"));
            let directory = authority.directory().display();
            nbdkit.arg(format!("tls-certificates={directory}"))
        }
    };
    nbdkit.args(["--run", script]);
    run(&mut nbdkit, CLIENT_LIMIT)?;
    Ok("data, extents and abilities go through".to_owned())
}

/// `mvps txn` applies a list of writes as one transaction.
pub fn txn(at: &At<'_>) -> Result<String> {
    let list = at.place.join("list");
    std::fs::write(&list, "0 48656c6c6f\n4KiB zero 4KiB\n1MiB trim 1MiB\n")?;
    let connect = match &at.way.listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(socket) => format!("unix:{}", socket.display()),
    };
    let token = at.way.claims("txn").sign();
    let words = ["txn", "--token", &token, "--durable", "--connect", &connect];
    let mut txn = at.daemon.setup().command(&words);
    if let Some(authority) = &at.way.authority {
        txn.args(["--tls-ca", &authority.file("ca-cert.pem")]);
    }
    run(txn.arg(&list), CLIENT_LIMIT)?;
    let uri = at.way.uri("txn");
    let script = "assert h.pread(6, 0) == b'Hello\\0'";
    nbdsh(&uri, script)?;
    Ok("a list applied whole".to_owned())
}
