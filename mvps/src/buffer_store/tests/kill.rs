//! SIGKILL: nothing that was acknowledged is lost.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use super::*;

const DIRECTORY: &str = "MVPS_TEST_KILL_DIRECTORY";
const ROUNDS: usize = 6;

/// The victim: commits, syncs, seals, spills and drops until it is killed, and says what it has
/// been told is done.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is run by the test beside it, to be killed"]
async fn victim() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    // Few, so that kills meet switches.
    let stores = FjallBufferStores::new(directory).of(2);
    let opened = stores.open(&image()).await.unwrap();
    let mut lsn = opened.last_lsn.0;
    let mut sealed: Vec<_> = opened.generations.iter().map(|g| g.generation).collect();
    sealed.pop();
    let mut out = std::io::stdout();
    loop {
        lsn += 1;
        let bytes = [4096, 16 * 1024, 128 * 1024][lsn as usize % 3];
        opened.store.commit(batch(lsn, bytes)).await.unwrap();
        writeln!(out, "\nacknowledged {lsn}").unwrap();
        out.flush().unwrap();
        if lsn.is_multiple_of(31) {
            opened.store.sync().await.unwrap();
        }
        if lsn.is_multiple_of(100) {
            sealed.push(opened.store.seal().await.unwrap().0);
        }
        if sealed.len() > 2 {
            let oldest = sealed.remove(0);
            let store = Arc::clone(&opened.store);
            tokio::spawn(async move {
                if oldest.0.is_multiple_of(2) {
                    store.spill(oldest).await.unwrap();
                }
                store.drop_generation(oldest).await.unwrap();
            });
        }
    }
}

fn start(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg(format!(
            "{}::victim",
            module_path!().split_once("::").unwrap().1
        ))
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_nothing_acknowledged() {
    let root = fast_directory();
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let mut victim = start(root.path());
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let lines = lines.map_while(Result::ok);
        let mut numbers = lines.filter_map(|l| l.strip_prefix("acknowledged ")?.parse().ok());
        for _ in 0..150 + round * 371 {
            acknowledged = numbers.next().expect("the victim lives");
        }
        victim.kill().unwrap();
        // What it said before it died counts too.
        acknowledged = numbers.last().unwrap_or(acknowledged);
        victim.wait().unwrap();
        let recovered = open(root.path()).await.unwrap();
        let found = recovered.last_lsn.0;
        assert!(
            found >= acknowledged,
            "round {round}: {found} of {acknowledged}"
        );
        let lsns = verified_lsns(&recovered);
        let first = lsns.first().copied().unwrap_or(found + 1);
        assert!(lsns.into_iter().eq(first..=found), "round {round}: a gap");
    }
}
