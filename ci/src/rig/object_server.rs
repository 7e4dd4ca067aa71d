//! The S3 server of `tests/s3_server` as a process of its own, with its counters and its outage
//! switch.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use serde_json::Value;

use crate::rig::workspace::{self, Profile};

/// The bucket that the server makes at its start.
pub const BUCKET: &str = "mvps-test";

/// The keys that it accepts.
pub const ACCESS_KEY: &str = "test-access-key";

/// The secret that goes with it.
pub const SECRET_KEY: &str = "test-secret-key";

/// Where images live for good.
#[derive(Debug, Clone)]
pub enum ObjectStore {
    /// A directory.
    Local(PathBuf),
    /// A bucket of an S3 server at `endpoint`.
    S3 {
        /// `http://127.0.0.1:PORT`.
        endpoint: String,
        /// The bucket, which exists.
        bucket: String,
        /// Ends with `/`.
        prefix: String,
    },
}

/// A running S3 server; it ends with this value.
#[derive(Debug)]
pub struct ObjectServer {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    endpoint: String,
    directory: PathBuf,
}

/// What was asked of the server since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// All of them.
    pub total: u64,
    /// Those that only read: GET and HEAD.
    pub reads: u64,
    /// Bytes of request bodies.
    pub received_bytes: u64,
}

impl Requests {
    /// What was asked since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            total: self.total - earlier.total,
            reads: self.reads - earlier.reads,
            received_bytes: self.received_bytes - earlier.received_bytes,
        }
    }
}

impl ObjectServer {
    /// Serves `directory`. Always the release build: it must not be the slow part.
    ///
    /// # Errors
    /// If it cannot be built or does not start.
    pub fn start(directory: &Path) -> Result<Self> {
        let binary = workspace::build("s3-test-server", Profile::Release)?;
        let mut child = Command::new(binary)
            .arg("--dir")
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the S3 server")?;
        let commands = child.stdin.take().expect("piped");
        let mut answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut endpoint = String::new();
        answers.read_line(&mut endpoint)?;
        let endpoint = endpoint.trim().to_owned();
        ensure!(
            endpoint.starts_with("http://"),
            "the S3 server did not start: {endpoint}"
        );
        Ok(Self {
            child,
            commands,
            answers,
            endpoint,
            directory: directory.to_owned(),
        })
    }

    /// Where it serves.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its bucket under `prefix`, for a daemon. Prefix and image name together must not exceed 19
    /// bytes: the server keeps an upload's key, in base64, in the name of one file, and answers
    /// "InternalError" to the start of an upload whose key is longer than 126 bytes.
    pub fn store(&self, prefix: &str) -> ObjectStore {
        ObjectStore::S3 {
            endpoint: self.endpoint.clone(),
            bucket: BUCKET.to_owned(),
            prefix: prefix.to_owned(),
        }
    }

    /// Where the objects below `prefix` are, as files.
    pub fn objects(&self, prefix: &str) -> PathBuf {
        self.directory.join(BUCKET).join(prefix)
    }

    /// Every object below `prefix`, by its key from there on, with its length; seen on the disk, so
    /// that no request is counted.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub fn listing(&self, prefix: &str) -> Result<BTreeMap<String, u64>> {
        let root = self.objects(prefix);
        let mut objects = BTreeMap::new();
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(&directory)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    directories.push(entry.path());
                    continue;
                }
                let path = entry.path();
                let key = path.strip_prefix(&root)?.to_str().context("a key")?;
                objects.insert(key.to_owned(), entry.metadata()?.len());
            }
        }
        Ok(objects)
    }

    /// An object's bytes.
    ///
    /// # Errors
    /// If it is not there.
    pub fn read(&self, prefix: &str, key: &str) -> Result<Vec<u8>> {
        Ok(std::fs::read(self.objects(prefix).join(key))?)
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.commands, "{command}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(answer.trim().to_owned())
    }

    /// Closes every connection, and every new one as it arrives.
    ///
    /// # Errors
    /// If the server does not confirm it.
    pub fn cut(&mut self) -> Result<()> {
        let answer = self.ask("cut")?;
        ensure!(answer == "ok", "cut: {answer}");
        Ok(())
    }

    /// Lets connections pass again.
    ///
    /// # Errors
    /// If the server does not confirm it.
    pub fn restore(&mut self) -> Result<()> {
        let answer = self.ask("restore")?;
        ensure!(answer == "ok", "restore: {answer}");
        Ok(())
    }

    /// What was asked so far.
    ///
    /// # Errors
    /// If the server does not say.
    pub fn requests(&mut self) -> Result<Requests> {
        let answer = self.ask("counts")?;
        let counts: Value = serde_json::from_str(&answer).context("counts of the S3 server")?;
        let methods = counts["by_method"]
            .as_object()
            .context("counts by method")?;
        let count = |method: &str| methods.get(method).and_then(Value::as_u64).unwrap_or(0);
        Ok(Requests {
            total: methods.values().filter_map(Value::as_u64).sum(),
            reads: count("GET") + count("HEAD"),
            received_bytes: counts["received_bytes"]
                .as_u64()
                .context("bytes received")?,
        })
    }
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

/// What the objects below `directory` take, by their lengths. What goes while it is looked at
/// counts for nothing.
///
/// # Errors
/// If an entry has a name that cannot be read.
pub fn object_bytes(directory: &Path) -> Result<u64> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Ok(0);
    };
    let mut bytes = 0;
    for entry in entries.flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += object_bytes(&entry.path())?,
            Ok(metadata) => bytes += metadata.len(),
            Err(_) => {}
        }
    }
    Ok(bytes)
}

/// A client of the S3 server at `endpoint`, as the SDK makes it.
pub fn sdk_client(endpoint: &str) -> Client {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .endpoint_url(endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "ci"))
        .force_path_style(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .build();
    Client::from_conf(config)
}
