//! What must hold after all the overwriting, cleaning and collecting: nothing is damaged, every
//! page is where it belongs, and what is written and verified now is found again by a server that
//! has nothing but the bucket.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::run::{IMAGE, LIMIT, Run};
use crate::rig::command;
use crate::rig::daemon::{Listen, Setup};

/// Every block once, in an order and with content that follow from the seed: `--verify_only` knows
/// both again.
const ONCE: &[&str] = &["--rw=randwrite", "--bs=4k", "--iodepth=32", "--randseed=7"];

/// Every page, and every object.
pub fn check(run: &Run) -> Result<String> {
    let read = ["--rw=read", "--bs=1M", "--iodepth=4"];
    run.fio(&read).context("what the overwrites left")?;
    run.fio(&[ONCE, &["--do_verify=1"]].concat())
        .context("another round, every block once")?;
    run.daemon.checkpoint(IMAGE)?;
    run.rest()?;
    run.collect()?;
    let bytes = check_all(run.daemon.setup())?;
    Ok(format!("fio --verify of all; check read {bytes} bytes"))
}

/// The server ends; another one, with an empty buffer store, has the same.
pub fn again_elsewhere(mut run: Run, buffer: &Path) -> Result<String> {
    let mut setup = run.daemon.setup().clone();
    run.daemon.stop()?;
    setup.buffer = buffer.to_owned();
    setup.listen = Listen::free_port()?;
    run.daemon = setup.start()?;
    run.fio(&[ONCE, &["--verify_only"]].concat())?;
    let bytes = check_all(&setup)?;
    run.daemon.stop()?;
    Ok(format!("fio --verify of all; check read {bytes} bytes"))
}

/// `mvps check --all --read-data`; how many bytes it read.
fn check_all(setup: &Setup) -> Result<u64> {
    let words = ["check", "--all", "--read-data", "--output", "json"];
    let output = command::run(&mut setup.command(&words), LIMIT)?.stdout;
    let report: Value = serde_json::from_str(&output).context("not JSON")?;
    let image = &report["images"][0];
    ensure!(image["leaks"]["garbage"] == 0, "garbage is left: {image}");
    let verified = image["data_bytes_verified"].as_u64();
    verified.filter(|bytes| *bytes > 0).context("no data read")
}
