//! The harness. Three things: a [`Site`] is where everything lives, a [`Server`] is one running
//! `mvps serve`, and [`Server::attach`] gives a client of it.
//!
//! Everything has a limit of time, because a black-box test that hangs says nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use mvps_core::client::{Client, ClientError};
use mvps_core::env::Spawner;
use mvps_core::nbd::{ExportName, Opening};
use tempfile::TempDir;
use tokio::net::UnixStream;

/// How long a server may take to listen, and to end after SIGTERM.
const LIMIT: Duration = Duration::from_secs(60);

/// A mebibyte.
pub const MIB: u64 = 1024 * 1024;

/// A directory with an object store in it, and the buffer stores of any number of servers.
pub struct Site {
    directory: TempDir,
    root_keys: String,
}

impl Site {
    /// A new, empty one.
    pub fn new() -> Self {
        let directory = TempDir::with_prefix("mvps").expect("a scratch directory");
        Self {
            directory,
            root_keys: String::new(),
        }
    }

    /// From now on programs have these root keys; none if the text is empty.
    pub fn set_root_keys(&mut self, root_keys: &str) {
        root_keys.clone_into(&mut self.root_keys);
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `mvps` with these words, the site's object store, and the buffer store called `buffer`.
    /// Nothing is inherited from the environment but `PATH`.
    pub fn mvps(&self, buffer: &str, words: &[&str]) -> Command {
        let mut command = bare_mvps(self.directory.path(), words);
        command
            .env("MVPS_TE_JWT_SECRET", "secret of the tests")
            .env("MVPS_TE_IMAGE_STORE", "local")
            .env("MVPS_TE_IMAGE_STORE_LOCAL_PATH", self.path("objects"))
            .env("MVPS_TE_BUFFER_STORE_PATH", self.path(buffer));
        if !self.root_keys.is_empty() {
            command.env("MVPS_TE_ROOT_KEY", &self.root_keys);
        }
        command
    }

    /// Runs an operator's command to its end.
    pub fn run(&self, buffer: &str, words: &[&str]) -> Output {
        let output = self.mvps(buffer, words).output();
        output.expect("the binary runs")
    }

    /// Runs an operator's command that must succeed; returns what it printed.
    pub fn run_well(&self, buffer: &str, words: &[&str]) -> String {
        let output = self.run(buffer, words);
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "{words:?}: {stdout}{stderr}");
        stdout
    }

    /// A token from `mvps token`.
    pub fn token(&self, words: &[&str]) -> String {
        let printed = self.run_well("buffer", &[&["token"], words].concat());
        printed.trim().to_owned()
    }

    /// Starts a server on the buffer store called `buffer`.
    pub fn serve(&self, buffer: &str, flags: &[&str]) -> Server {
        let server = self.try_serve(buffer, flags);
        server.unwrap_or_else(|(status, log)| panic!("mvps serve: {status}\n{log}"))
    }

    /// Starts a server that may refuse to start.
    ///
    /// # Errors
    /// Its exit status and its log.
    pub fn try_serve(&self, buffer: &str, flags: &[&str]) -> Result<Server, (ExitStatus, String)> {
        let socket = self.path(&format!("{buffer}.sock"));
        let log = self.path(&format!("{buffer}.log"));
        // The log of an earlier server on this buffer store goes on.
        let earlier = fs::read_to_string(&log).map_or(0, |text| text.len());
        let file = File::options().create(true).append(true).open(&log);
        let file = file.expect("a log file");
        let child = self
            .mvps(buffer, &["serve"])
            .args(["--listen", &format!("unix:{}", socket.display())])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log file"))
            .stderr(file)
            .spawn()
            .expect("the binary starts");
        let mut server = Server { child, socket, log };
        let deadline = Instant::now() + LIMIT;
        while !server.log()[earlier..].contains("ready") {
            if let Some(status) = server.child.try_wait().expect("a child") {
                return Err((status, server.log()));
            }
            assert!(Instant::now() < deadline, "no server:\n{}", server.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }
}

/// `mvps` in `directory`, with nothing from the environment but `PATH`.
pub fn bare_mvps(directory: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvps"));
    command.args(words).current_dir(directory).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// What a program printed on its two streams.
pub fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// A running `mvps serve` on a unix socket; killed when dropped.
pub struct Server {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Server {
    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL; gone when this returns.
    pub fn kill(mut self) {
        let ended = self.child.try_wait().expect("a child");
        assert_eq!(ended, None, "it ended by itself:\n{}", self.log());
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("a child");
    }

    /// SIGTERM; it must end well.
    pub fn stop(mut self) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("SIGTERM");
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                assert!(status.success(), "{status}\n{}", self.log());
                return;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Attaches with a token that must be good.
    pub async fn attach(&self, token: &str) -> Client {
        let attached = self.try_attach(token).await;
        attached.unwrap_or_else(|error| panic!("attach: {error}\n{}", self.log()))
    }

    /// Attaches with any token.
    ///
    /// # Errors
    /// As the client says.
    pub async fn try_attach(&self, token: &str) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|_| ClientError::Lost)?;
        let name = ExportName::new(token.to_owned()).expect("a short name");
        let attached = Client::connect(stream, name, Opening::Go, &OnTokio);
        tokio::time::timeout(LIMIT, attached)
            .await
            .expect("an answer to an attachment")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

/// The client's tasks on the test's runtime.
struct OnTokio;

impl Spawner for OnTokio {
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn compute(&self, job: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(job);
    }
}
