//! The comparator: aws-sdk-s3 alone, doing the same work without mvps. A hidden command of `ci`,
//! run from a release build, so that it is compiled as well as what it is compared with.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::rig::command;
use crate::rig::numbers::Numbers;
use crate::rig::object_server::{BUCKET, sdk_client};
use crate::rig::workspace::{self, Profile};

/// Its name in tables.
pub const NAME: &str = "plain SDK";

/// How long a measurement may take.
const LIMIT: Duration = Duration::from_secs(600);

/// What the plain client does.
#[derive(clap::Args, Clone, Debug)]
pub struct PlainSdk {
    /// The S3 server.
    #[arg(long)]
    endpoint: String,
    /// The object.
    #[arg(long)]
    key: String,
    /// Upload this many bytes of noise as one multipart upload.
    #[arg(long)]
    put_bytes: Option<u64>,
    /// Size of a part.
    #[arg(long, default_value_t = 8 * 1024 * 1024)]
    part_bytes: u64,
    /// Read this many ranges.
    #[arg(long, default_value_t = 0)]
    gets: u64,
    /// Size of a range.
    #[arg(long, default_value_t = 64 * 1024)]
    range_bytes: u64,
    /// Read the ranges in order rather than at random.
    #[arg(long)]
    sequential: bool,
    /// Requests in flight.
    #[arg(long, default_value_t = 4)]
    in_flight: usize,
}

/// Runs the plain client in a release build of this program; returns bytes per second.
///
/// # Errors
/// If it fails.
pub fn measure(endpoint: &str, key: &str, arguments: &[String]) -> Result<f64> {
    let binary = workspace::build("ci", Profile::Release)?;
    let mut command = Command::new(binary);
    command.args(["plain-sdk", "--endpoint", endpoint, "--key", key]);
    command.args(arguments);
    let output = command::run(&mut command, LIMIT)?.stdout;
    let answer: Value = serde_json::from_str(&output).context("the plain client's answer")?;
    answer["bytes_per_second"].as_f64().context("its rate")
}

/// Runs the hidden command.
///
/// # Errors
/// If a request fails.
pub fn run(options: &PlainSdk) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (bytes, elapsed) = runtime.block_on(async {
        let client = sdk_client(&options.endpoint);
        match options.put_bytes {
            Some(bytes) => put(&client, options, bytes).await,
            None => get(&client, options).await,
        }
    })?;
    let rate = bytes as f64 / elapsed.as_secs_f64();
    println!("{}", json!({ "bytes": bytes, "bytes_per_second": rate }));
    Ok(())
}

async fn put(client: &Client, options: &PlainSdk, bytes: u64) -> Result<(u64, Duration)> {
    ensure!(bytes > 0, "nothing to upload");
    let mut noise = vec![0; usize::try_from(options.part_bytes.min(bytes))?];
    Numbers::new(9).fill(&mut noise);
    let noise = bytes::Bytes::from(noise);
    let started = Instant::now();
    let created = client.create_multipart_upload();
    let created = created.bucket(BUCKET).key(&options.key).send().await?;
    let upload = created.upload_id().context("an upload id")?.to_owned();
    let (mut running, mut parts) = (JoinSet::new(), Vec::new());
    let (mut at, mut number) = (0, 0);
    while at < bytes {
        if running.len() == options.in_flight {
            parts.push(running.join_next().await.context("one runs")???);
        }
        let length = options.part_bytes.min(bytes - at);
        number += 1;
        let request = client.upload_part();
        let request = request.bucket(BUCKET).key(&options.key).upload_id(&upload);
        let body = ByteStream::from(noise.slice(..usize::try_from(length)?));
        let request = request.part_number(number).body(body);
        running.spawn(async move {
            let sent = request.send().await?;
            let part = CompletedPart::builder().part_number(number);
            anyhow::Ok(part.set_e_tag(sent.e_tag).build())
        });
        at += length;
    }
    while let Some(part) = running.join_next().await {
        parts.push(part??);
    }
    parts.sort_by_key(CompletedPart::part_number);
    let completed = CompletedMultipartUpload::builder().set_parts(Some(parts));
    let complete = client.complete_multipart_upload();
    let complete = complete.bucket(BUCKET).key(&options.key).upload_id(upload);
    complete.multipart_upload(completed.build()).send().await?;
    Ok((bytes, started.elapsed()))
}

async fn get(client: &Client, options: &PlainSdk) -> Result<(u64, Duration)> {
    let head = client.head_object().bucket(BUCKET).key(&options.key);
    let size = head.send().await?.content_length().context("a length")?;
    let ranges = u64::try_from(size)? / options.range_bytes;
    ensure!(ranges > 0, "the object is smaller than a range");
    let mut numbers = Numbers::new(10);
    let (mut running, mut bytes) = (JoinSet::new(), 0);
    let started = Instant::now();
    for index in 0..options.gets {
        if running.len() == options.in_flight {
            bytes += running.join_next().await.context("one runs")???;
        }
        let range = match options.sequential {
            true => index % ranges,
            false => numbers.below(ranges),
        };
        let first = range * options.range_bytes;
        let last = first + options.range_bytes - 1;
        let request = client.get_object().bucket(BUCKET).key(&options.key);
        let request = request.range(format!("bytes={first}-{last}"));
        running.spawn(async move {
            let body = request.send().await?.body.collect().await?;
            anyhow::Ok(body.into_bytes().len() as u64)
        });
    }
    while let Some(read) = running.join_next().await {
        bytes += read??;
    }
    Ok((bytes, started.elapsed()))
}
