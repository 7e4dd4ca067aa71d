//! Rules on the text of the sources: what the core must not name, what its pure parts must not
//! import, and that nothing is left half done.
//!
//! The scan is by line, without comments and strings; unit tests (below `#[cfg(test)]` at the
//! start of a line, in `scenarios/`, and in files called `tests.rs`, `testing.rs` or
//! `measurements.rs`) are exempt from the rules on the core.

use std::path::Path;

/// Names that tie the core to one runtime, one clock or chance, and what to use instead.
const BANNED_IN_CORE: &[(&str, &str)] = &[
    ("tokio::spawn", "env::Spawner"),
    ("tokio::task", "env::Spawner"),
    ("tokio::runtime", "env::Spawner"),
    ("tokio::time", "env::Clock"),
    ("tokio::net", "env::Network"),
    ("tokio::fs", "env::BufferStore or env::ObjectStore"),
    ("tokio::signal", "the daemon"),
    ("std::time::Instant", "env::Clock"),
    ("std::time::SystemTime", "env::Clock"),
    ("Instant::now", "env::Clock"),
    ("SystemTime::now", "env::Clock"),
    ("std::thread", "env::Spawner"),
    ("std::fs", "env::BufferStore or env::ObjectStore"),
    ("std::net", "env::Network"),
    ("rand::", "env::Entropy"),
    ("getrandom", "env::Entropy"),
    ("RandomState", "BTreeMap, or a fixed hasher"),
    ("HashMap", "BTreeMap, or a fixed hasher"),
    ("HashSet", "BTreeSet, or a fixed hasher"),
];

/// Where a library's own signature forces a banned name, and why it does no harm.
const EXCUSED: &[(&str, &str, &str)] = &[(
    "mvps/core/src/token.rs",
    "HashSet",
    "jsonwebtoken takes the names of the required claims in one; nothing iterates over it",
)];

/// The unbiased ways of choosing between futures: they ask for randomness.
const SELECTS: &[&str] = &["select!", "try_join!", "join!"];

/// Directories of the core whose code turns bytes into values and back, without an environment.
const PURE: &[&str] = &["mvps/core/src/nbd", "mvps/core/src/format"];

/// What pure code must not contain.
const IMPURE: &[&str] = &["async ", ".await", "tokio", "futures_util", "async_trait"];

/// The plain values of `env` that pure code may mention.
const ENV_VALUES: &[&str] = &["ObjectName", "ObjectPrefix", "WallTime", "Part"];

/// Words for work that was left undone.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "FIXME", "XXX"];

/// What a file of the core names that ties it to a real environment.
pub fn core_findings(path: &Path, text: &str) -> Vec<String> {
    if !path.starts_with("mvps/core/src") || is_test_file(path) {
        return Vec::new();
    }
    let code = code_lines(text);
    let mut findings = Vec::new();
    for (position, (number, line)) in code.iter().enumerate() {
        for (name, instead) in BANNED_IN_CORE {
            // A fixed hasher is a third parameter; its type is named where the alias is made.
            let fixed_hasher = name.starts_with("Hash") && line.contains("Hasher");
            let is_excused = |(file, excused, _): &(&str, &str, &str)| {
                Path::new(file) == path && excused == name
            };
            let excused = fixed_hasher || EXCUSED.iter().any(is_excused);
            if mentions(line, name) && !excused {
                findings.push(found(path, *number, &format!("{name}: use {instead}")));
            }
        }
        let is_select = SELECTS.iter().any(|select| mentions(line, select));
        let next = code.get(position + 1).map_or("", |(_, next)| next.trim());
        if is_select && !line.contains("biased") && !next.starts_with("biased") {
            findings.push(found(path, *number, "not `biased;`"));
        }
    }
    findings
}

/// What pure code names of an environment.
pub fn purity_findings(path: &Path, text: &str) -> Vec<String> {
    if !PURE.iter().any(|pure| path.starts_with(pure)) || is_test_file(path) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in code_lines(text) {
        for word in IMPURE.iter().filter(|word| mentions(&line, word)) {
            findings.push(found(path, number, &format!("`{word}` in pure code")));
        }
        let imports_env = line.contains("crate::env");
        if imports_env && !ENV_VALUES.iter().any(|value| line.contains(value)) {
            findings.push(found(path, number, "imports the environment"));
        }
        for module in ["crate::engine", "crate::session", "crate::store"] {
            if line.contains(module) {
                findings.push(found(path, number, &format!("imports {module}")));
            }
        }
    }
    findings
}

/// What says of itself that it is not done. This file and its tests name the words.
pub fn unfinished_findings(path: &Path, text: &str) -> Vec<String> {
    if path.ends_with("ci/src/check/source.rs") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for word in UNFINISHED.iter().filter(|word| mentions(line, word)) {
            findings.push(found(path, number + 1, &format!("`{word}`")));
        }
    }
    findings
}

fn found(path: &Path, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", path.display())
}

fn is_test_file(path: &Path) -> bool {
    let is_tests = |name: &std::ffi::OsStr| {
        [
            "tests",
            "tests.rs",
            "scenarios",
            "testing.rs",
            "measurements.rs",
        ]
        .iter()
        .any(|test| name == *test)
    };
    path.iter().any(is_tests)
}

/// Whether `line` has `name` as a whole path or word, not as the end of a longer one.
fn mentions(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// The lines that have code, with their numbers, without comments, unit tests and the insides of
/// strings.
fn code_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("#[cfg(test)]") {
            break;
        }
        let code = without_strings_and_comments(line);
        if !code.trim().is_empty() {
            lines.push((index + 1, code));
        }
    }
    lines
}

fn without_strings_and_comments(line: &str) -> String {
    let mut code = String::new();
    let mut characters = line.chars().peekable();
    let mut in_string = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' if in_string => {
                characters.next();
            }
            '"' => in_string = !in_string,
            '/' if !in_string && characters.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => code.push(character),
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_names_no_real_environment() {
        let check = |text: &str, expected: usize| {
            let found = core_findings(Path::new("mvps/core/src/engine/a.rs"), text);
            assert_eq!(found.len(), expected, "{text}: {found:?}");
        };
        check("use std::time::Duration;", 0);
        check("use std::time::Instant;", 1);
        check("tokio::spawn(async {})", 1);
        check("// tokio::spawn would be wrong", 0);
        check("error(\"tokio::spawn\")", 0);
        check("let x: HashMap<u8, u8>;", 1);
        check("type Map = HashMap<u8, u8, FixedHasher>;", 0);
        check("operand::x()", 0);
        check("tokio::select! {\n    biased;\n}", 0);
        check("tokio::select! {\n    a = b => {}\n}", 1);
        check("fn a() {}\n#[cfg(test)]\nmod tests { use std::fs; }", 0);
    }

    #[test]
    fn pure_code_names_no_environment() {
        let check = |name: &str, text: &str, expected: usize| {
            let found = purity_findings(Path::new(name), text);
            assert_eq!(found.len(), expected, "{text}: {found:?}");
        };
        check("mvps/core/src/nbd/a.rs", "async fn a() {}", 1);
        check("mvps/core/src/engine/a.rs", "async fn a() {}", 0);
        check("mvps/core/src/format/a.rs", "use crate::env::Clock;", 1);
        check(
            "mvps/core/src/format/a.rs",
            "use crate::env::ObjectName;",
            0,
        );
        check("mvps/core/src/format/a.rs", "use crate::ids::Lsn;", 0);
    }

    #[test]
    fn undone_work_is_found() {
        let found = |text| unfinished_findings(Path::new("a.rs"), text).len();
        assert_eq!(found("    todo!()"), 1);
        assert_eq!(found("// FIXME later"), 1);
        assert_eq!(found("let method = 1;"), 0);
    }
}
