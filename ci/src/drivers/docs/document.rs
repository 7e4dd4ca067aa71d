//! What a document says about its code blocks. Pure.
//!
//! A mark is an HTML comment on the line before a block, so that readers do not see it:
//!
//! | mark | the block |
//! |---|---|
//! | `<!-- docs: run -->` | is run as it is printed |
//! | `<!-- docs: run background -->` | is a server: it goes on until the section ends |
//! | `<!-- docs: run fails -->` | must fail |
//! | `<!-- docs: run stops -->` | ends the section's servers |
//! | `<!-- docs: run clone -->` | is run at the root of a clone of the repository |
//! | `<!-- docs: run slow -->` | takes minutes: `--slow` runs it |
//! | `<!-- docs: file NAME -->` | is a file that later blocks read |
//! | `<!-- docs: not run: REASON -->` | cannot be run on any machine |
//!
//! What a section needs and readers have already stands in comments of its own: `docs: s3` (an S3
//! server), `docs: server FLAGS` (a running mvps), `docs: stop` (it ends), `docs: crash` (it is
//! killed), `docs: setup COMMANDS` (on one line or on many).
//!
//! Invariant: every block of a document has a mark, and every mark is understood; nothing is left
//! out in silence.

use anyhow::{Context, Result, bail, ensure};

/// How a block is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Manner {
    /// It is a server, which goes on.
    pub background: bool,
    /// It must fail.
    pub fails: bool,
    /// It ends the section's servers.
    pub stops: bool,
    /// At the root of a clone.
    pub clone: bool,
    /// It takes minutes.
    pub slow: bool,
}

/// What is done at one place of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Run a block.
    Run(Manner, String),
    /// Write a block to this file.
    File(String, String),
    /// Leave a block out, for this reason.
    NotRun(String),
    /// Start an S3 server.
    S3,
    /// Start mvps with these flags.
    Server(String),
    /// End the servers.
    Stop,
    /// Kill the servers.
    Crash,
    /// Run what readers have done already.
    Setup(String),
}

impl Step {
    /// Whether readers see it.
    pub fn is_block(&self) -> bool {
        matches!(self, Self::Run(..) | Self::File(..) | Self::NotRun(_))
    }
}

/// A part of a document, from one heading of the second level to the next. Its blocks share
/// variables, a directory and servers.
#[derive(Debug, PartialEq, Eq)]
pub struct Section {
    /// Its heading.
    pub heading: String,
    /// What is done, each with the number of its line.
    pub steps: Vec<(usize, Step)>,
}

/// The sections of `text` that have anything to do.
///
/// # Errors
/// Names the line of a block without a mark, or of a mark that is not understood.
pub fn sections(text: &str) -> Result<Vec<Section>> {
    let mut sections = vec![Section {
        heading: String::new(),
        steps: Vec::new(),
    }];
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    let mut mark = None;
    while let Some((number, line)) = lines.next() {
        let section = sections.last_mut().expect("there is always one");
        if let Some(heading) = line.strip_prefix("## ") {
            sections.push(Section {
                heading: heading.to_owned(),
                steps: Vec::new(),
            });
        } else if line.starts_with("```") {
            let block: Vec<&str> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| *line != "```")
                .collect();
            let mark: String = mark.take().with_context(|| {
                format!("line {number}: a block without a mark (see ci/src/drivers/docs)")
            })?;
            let step = of_block(&mark, format!("{}\n", block.join("\n")));
            let step = step.with_context(|| format!("line {number}"))?;
            section.steps.push((number, step));
        } else if let Some(begun) = line.strip_prefix("<!-- docs: ") {
            let mut comment = begun.to_owned();
            while !comment.ends_with("-->") {
                let (_, line) = lines.next().context("a comment has no end")?;
                comment.push('\n');
                comment.push_str(line);
            }
            let comment = comment.trim_end_matches("-->").trim();
            match of_comment(comment) {
                Some(step) => section.steps.push((number, step)),
                None => mark = Some(comment.to_owned()),
            }
            continue;
        }
        if let Some(mark) = mark.take() {
            bail!("line {number}: no block follows the mark `{mark}`");
        }
    }
    ensure!(mark.is_none(), "no block follows the last mark");
    sections.retain(|section| !section.steps.is_empty());
    Ok(sections)
}

/// A comment that stands alone; `None` if it belongs to the block below it.
fn of_comment(comment: &str) -> Option<Step> {
    let (word, rest) = comment
        .split_once(char::is_whitespace)
        .unwrap_or((comment, ""));
    match word {
        "s3" => Some(Step::S3),
        "server" => Some(Step::Server(rest.trim().to_owned())),
        "stop" => Some(Step::Stop),
        "crash" => Some(Step::Crash),
        "setup" => Some(Step::Setup(format!("{}\n", rest.trim()))),
        _ => None,
    }
}

fn of_block(mark: &str, block: String) -> Result<Step> {
    if let Some(reason) = mark.strip_prefix("not run:") {
        ensure!(!reason.trim().is_empty(), "not run: for which reason?");
        return Ok(Step::NotRun(reason.trim().to_owned()));
    }
    if let Some(name) = mark.strip_prefix("file ") {
        return Ok(Step::File(name.trim().to_owned(), block));
    }
    let Some(words) = mark.strip_prefix("run") else {
        bail!("not understood: `{mark}`");
    };
    let mut manner = Manner::default();
    for word in words.split_whitespace() {
        match word {
            "background" => manner.background = true,
            "fails" => manner.fails = true,
            "stops" => manner.stops = true,
            "clone" => manner.clone = true,
            "slow" => manner.slow = true,
            _ => bail!("not understood: `{word}` in `{mark}`"),
        }
    }
    Ok(Step::Run(manner, block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_understood() {
        let text = "# Title\n\n## One\n<!-- docs: server --a b -->\n<!-- docs: setup\nx\ny\n-->\n\
            text\n<!-- docs: run clone slow -->\n```sh\n## no heading\nb\n```\n### Below\n\
            <!-- docs: not run: needs a moon -->\n```sh\nc\n```\n## Empty\n## Two\n\
            <!-- docs: file f.txt -->\n```text\nd\n```\n";
        let slow_clone = Manner {
            clone: true,
            slow: true,
            ..Manner::default()
        };
        let one = Section {
            heading: "One".to_owned(),
            steps: vec![
                (4, Step::Server("--a b".to_owned())),
                (5, Step::Setup("x\ny\n".to_owned())),
                (11, Step::Run(slow_clone, "## no heading\nb\n".to_owned())),
                (17, Step::NotRun("needs a moon".to_owned())),
            ],
        };
        let two = Section {
            heading: "Two".to_owned(),
            steps: vec![(23, Step::File("f.txt".to_owned(), "d\n".to_owned()))],
        };
        assert_eq!(sections(text).expect("understood"), [one, two]);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (text, expected) in [
            ("a\n```sh\nb\n```\n", "line 2: a block without a mark"),
            (
                "<!-- docs: run -->\n\n```sh\nb\n```\n",
                "no block follows the mark",
            ),
            ("<!-- docs: run quick -->\n```sh\nb\n```\n", "`quick`"),
            ("<!-- docs: walk -->\n```sh\nb\n```\n", "`walk`"),
            (
                "<!-- docs: not run: -->\n```sh\nb\n```\n",
                "for which reason",
            ),
            ("<!-- docs: setup\na\n", "no end"),
        ] {
            let error = format!("{:#}", sections(text).expect_err(text));
            assert!(error.contains(expected), "{error}");
        }
    }
}
