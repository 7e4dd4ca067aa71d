//! The length of files: over 500 lines is mentioned, over 700 refused unless listed with a reason.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::rig::workspace;

/// STYLE's aim.
const AIM_LINES: usize = 500;

/// Above this a file is refused.
const LIMIT_LINES: usize = 700;

/// Files that may be longer, and why.
const EXCUSED: &[(&str, &str)] = &[];

/// What a length means.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Mentioned,
    Refused,
}

fn judge(path: &Path, lines: usize, excused: &[(&str, &str)]) -> Verdict {
    let is_excused = excused.iter().any(|(name, _)| Path::new(name) == path);
    match lines {
        0..=AIM_LINES => Verdict::Fine,
        _ if lines > LIMIT_LINES && !is_excused => Verdict::Refused,
        _ => Verdict::Mentioned,
    }
}

/// Mentions long files.
///
/// # Errors
/// Names the files that are too long.
pub fn report(files: &[PathBuf]) -> Result<String> {
    let (mut mentioned, mut refused) = (Vec::new(), Vec::new());
    for path in files {
        let lines = std::fs::read_to_string(workspace::root().join(path))?
            .lines()
            .count();
        let line = format!("{} ({lines})", path.display());
        match judge(path, lines, EXCUSED) {
            Verdict::Fine => {}
            Verdict::Mentioned => mentioned.push(line),
            Verdict::Refused => refused.push(line),
        }
    }
    if !refused.is_empty() {
        bail!("over {LIMIT_LINES} lines: {}", refused.join(", "));
    }
    if mentioned.is_empty() {
        return Ok(format!("{} files, none over {AIM_LINES}", files.len()));
    }
    Ok(format!("over {AIM_LINES} lines: {}", mentioned.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_judged() {
        let excused = [("a.rs", "a table")];
        let check = |name: &str, lines, expected| {
            assert_eq!(
                judge(Path::new(name), lines, &excused),
                expected,
                "{name} {lines}"
            );
        };
        check("b.rs", 500, Verdict::Fine);
        check("b.rs", 501, Verdict::Mentioned);
        check("b.rs", 700, Verdict::Mentioned);
        check("b.rs", 701, Verdict::Refused);
        check("a.rs", 900, Verdict::Mentioned);
    }
}
