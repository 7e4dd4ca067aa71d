//! The files of a crate, found through its `mod` declarations, with what each of their modules
//! declares, imports and names.
//!
//! Code that is compiled for tests only is left out: what stands under `#[test]`, `#[cfg(test)]` or
//! a `cfg` that begins so, and every module called `tests`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::tokens::{Token, tokens};

/// A file of a crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(pub usize);

/// A module of a crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModuleId(pub usize);

/// The crate's root.
pub const ROOT: ModuleId = ModuleId(0);

/// Everything that `use a::*` imports.
pub const GLOB: &str = "*";

/// One name that a `use` declaration brings in.
#[derive(Debug)]
pub struct Use {
    /// What it stands for; of [`GLOB`] the module.
    pub path: Vec<String>,
    /// The name, or [`GLOB`].
    pub name: String,
    /// Where it stands.
    pub line: usize,
    /// Whether others may import it from here.
    pub is_reexport: bool,
}

/// A path of at least two names.
#[derive(Debug)]
pub struct Mention {
    /// Its names.
    pub path: Vec<String>,
    /// Where it stands.
    pub line: usize,
}

/// A module: a file, or a part of one in braces.
#[derive(Debug)]
pub struct Module {
    /// Where its items are.
    pub file: FileId,
    /// The module that declares it.
    pub parent: Option<ModuleId>,
    /// The modules that it declares.
    pub children: BTreeMap<String, ModuleId>,
    /// The items that it defines.
    pub definitions: BTreeSet<String>,
    /// What it imports and re-exports.
    pub uses: Vec<Use>,
    /// The paths in its code.
    pub mentions: Vec<Mention>,
    /// Names that stand in its code alone, each with its first line.
    pub names: BTreeMap<String, usize>,
}

/// A crate's sources.
#[derive(Debug, Default)]
pub struct Sources {
    /// Its files, by [`FileId`].
    pub files: Vec<PathBuf>,
    /// Its modules, by [`ModuleId`].
    pub modules: Vec<Module>,
}

impl Sources {
    /// Reads the crate whose root module is in `root_file`.
    ///
    /// # Errors
    /// If a file is missing or cannot be read.
    pub fn read(root_file: &Path) -> Result<Self> {
        let mut sources = Self::default();
        let directory = root_file.parent().context("a file is in a directory")?;
        sources.read_file(root_file, None, directory)?;
        Ok(sources)
    }

    /// The module.
    pub fn module(&self, id: ModuleId) -> &Module {
        &self.modules[id.0]
    }

    /// Every module with its number.
    pub fn all_modules(&self) -> impl Iterator<Item = (ModuleId, &Module)> {
        let modules = self.modules.iter().enumerate();
        modules.map(|(number, module)| (ModuleId(number), module))
    }

    /// Reads a module's file; those of its children are below `directory`.
    fn read_file(
        &mut self,
        file: &Path,
        parent: Option<ModuleId>,
        directory: &Path,
    ) -> Result<ModuleId> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        self.files.push(file.to_owned());
        let module = self.add(FileId(self.files.len() - 1), parent);
        self.read_items(module, &tokens(&text), directory)
            .with_context(|| file.display().to_string())?;
        Ok(module)
    }

    fn add(&mut self, file: FileId, parent: Option<ModuleId>) -> ModuleId {
        self.modules.push(Module {
            file,
            parent,
            children: BTreeMap::new(),
            definitions: BTreeSet::new(),
            uses: Vec::new(),
            mentions: Vec::new(),
            names: BTreeMap::new(),
        });
        ModuleId(self.modules.len() - 1)
    }

    /// Reads what stands between a module's braces, or in its file.
    fn read_items(
        &mut self,
        module: ModuleId,
        tokens: &[Token<'_>],
        directory: &Path,
    ) -> Result<()> {
        let mut at = 0;
        let mut depth = 0_usize;
        while at < tokens.len() {
            match text(tokens, at) {
                "#" => match attribute(tokens, at) {
                    Attribute::Other(end) => at = end,
                    Attribute::TestItem(end) => at = after_item(tokens, end),
                    Attribute::TestFile => return Ok(()),
                },
                "mod" if matches!(text(tokens, at + 2), ";" | "{") => {
                    at = self.read_module(module, tokens, at, directory)?;
                }
                "use" if text(tokens, at + 1) != "<" => {
                    let is_reexport = is_public(&tokens[..at]);
                    let uses = &mut self.modules[module.0].uses;
                    let end = read_use(tokens, at + 1, &[], is_reexport, uses);
                    ensure!(text(tokens, end) == ";", "a `use` without an end");
                    at = end + 1;
                }
                found => {
                    match found {
                        "{" => depth += 1,
                        "}" => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    at = self.read_code(module, tokens, at, depth);
                }
            }
        }
        Ok(())
    }

    /// Reads `mod name;` or `mod name { … }`; where the next item begins.
    fn read_module(
        &mut self,
        parent: ModuleId,
        tokens: &[Token<'_>],
        at: usize,
        directory: &Path,
    ) -> Result<usize> {
        let name = text(tokens, at + 1);
        let is_file = text(tokens, at + 2) == ";";
        let end = match is_file {
            true => at + 3,
            false => closing(tokens, at + 2),
        };
        if name == "tests" {
            return Ok(end);
        }
        let below = directory.join(name);
        let child = if is_file {
            let alone = directory.join(format!("{name}.rs"));
            let file = match alone.is_file() {
                true => alone,
                false => below.join("mod.rs"),
            };
            self.read_file(&file, Some(parent), &below)?
        } else {
            let file = self.module(parent).file;
            let child = self.add(file, Some(parent));
            self.read_items(child, &tokens[at + 3..end - 1], &below)?;
            child
        };
        let children = &mut self.modules[parent.0].children;
        children.insert(name.to_owned(), child);
        Ok(end)
    }

    /// Notes what the token at `at` defines or names; where the next token is.
    fn read_code(
        &mut self,
        module: ModuleId,
        tokens: &[Token<'_>],
        at: usize,
        depth: usize,
    ) -> usize {
        let token = tokens[at];
        let module = &mut self.modules[module.0];
        if depth == 0 && DEFINING.contains(&token.text) {
            module.definitions.insert(text(tokens, at + 1).to_owned());
        }
        if token.text == "macro_rules" {
            module.definitions.insert(text(tokens, at + 2).to_owned());
        }
        let before = at.checked_sub(1).map_or("", |before| text(tokens, before));
        if !token.is_name() || matches!(before, "." | "::") {
            return at + 1;
        }
        let mut path = vec![token.text.to_owned()];
        let mut end = at + 1;
        while text(tokens, end) == "::" && tokens.get(end + 1).is_some_and(Token::is_name) {
            path.push(text(tokens, end + 1).to_owned());
            end += 2;
        }
        let line = token.line;
        if path.len() > 1 {
            module.mentions.push(Mention { path, line });
        } else if before != "fn" && text(tokens, end) != ":" {
            module.names.entry(token.text.to_owned()).or_insert(line);
        }
        end
    }
}

/// The keywords before the name of an item.
const DEFINING: &[&str] = &[
    "struct", "enum", "union", "trait", "type", "fn", "const", "static",
];

/// The text of the token at `at`, empty behind the end.
fn text<'a>(tokens: &[Token<'a>], at: usize) -> &'a str {
    tokens.get(at).map_or("", |token| token.text)
}

/// What an attribute says, and where what follows it begins.
enum Attribute {
    /// The item that follows is for tests only.
    TestItem(usize),
    /// The whole file, or the module in braces, is.
    TestFile,
    /// Something else.
    Other(usize),
}

/// Reads the attribute whose `#` is at `at`.
fn attribute(tokens: &[Token<'_>], at: usize) -> Attribute {
    let is_inner = text(tokens, at + 1) == "!";
    let open = at + 1 + usize::from(is_inner);
    if text(tokens, open) != "[" {
        return Attribute::Other(at + 1);
    }
    let end = closing(tokens, open);
    let inside = &tokens[open + 1..end - 1];
    let said: String = inside.iter().map(|token| token.text).collect();
    let is_test = said == "test"
        || said.ends_with("::test")
        || ["cfg(test)", "cfg(all(test", "cfg(any(test"]
            .iter()
            .any(|test| said.starts_with(test));
    match (is_test, is_inner) {
        (true, true) => Attribute::TestFile,
        (true, false) => Attribute::TestItem(end),
        (false, _) => Attribute::Other(end),
    }
}

/// Behind the bracket that closes the one at `at`, or at the end.
fn closing(tokens: &[Token<'_>], at: usize) -> usize {
    let mut depth = 0_usize;
    for (number, token) in tokens.iter().enumerate().skip(at) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return number + 1;
        }
    }
    tokens.len()
}

/// Behind the item (or statement, field or arm) at `at`.
fn after_item(tokens: &[Token<'_>], mut at: usize) -> usize {
    while text(tokens, at) == "#" {
        at = closing(tokens, at + 1);
    }
    while matches!(text(tokens, at), "pub" | "async" | "unsafe") {
        at += 1;
        if text(tokens, at) == "(" {
            at = closing(tokens, at);
        }
    }
    let ends_with_semicolon = match text(tokens, at) {
        "use" | "static" | "type" | "let" => true,
        "const" => !matches!(text(tokens, at + 1), "fn" | "async" | "unsafe"),
        _ => false,
    };
    while at < tokens.len() {
        match text(tokens, at) {
            ";" => return at + 1,
            "," if !ends_with_semicolon => return at + 1,
            ")" | "]" | "}" => return at,
            "(" | "[" => at = closing(tokens, at),
            "{" => {
                at = closing(tokens, at);
                if !ends_with_semicolon {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

/// Whether `before` ends with `pub`, or with `pub(…)`.
fn is_public(before: &[Token<'_>]) -> bool {
    let scope = match before.last() {
        Some(token) if token.text == ")" => before.iter().rposition(|token| token.text == "("),
        _ => Some(before.len()),
    };
    let visibility = scope.and_then(|scope| scope.checked_sub(1));
    visibility.is_some_and(|at| before[at].text == "pub")
}

/// Reads one tree of a `use` declaration below `prefix`; where it ends.
fn read_use(
    tokens: &[Token<'_>],
    mut at: usize,
    prefix: &[String],
    is_reexport: bool,
    uses: &mut Vec<Use>,
) -> usize {
    let mut path = prefix.to_vec();
    let mut line = tokens.get(at).map_or(0, |token| token.line);
    if text(tokens, at) == "::" {
        at += 1;
    }
    while at < tokens.len() {
        match text(tokens, at) {
            "{" => {
                at += 1;
                while at < tokens.len() && text(tokens, at) != "}" {
                    at = read_use(tokens, at, &path, is_reexport, uses);
                    at += usize::from(text(tokens, at) == ",");
                }
                return at + 1;
            }
            GLOB => {
                uses.push(Use {
                    path,
                    name: GLOB.to_owned(),
                    line,
                    is_reexport,
                });
                return at + 1;
            }
            name if tokens[at].is_name() => {
                line = tokens[at].line;
                path.push(name.to_owned());
                at += 1;
            }
            _ => return at,
        }
        if text(tokens, at) == "::" {
            at += 1;
            continue;
        }
        if path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let mut name = path.last().cloned().unwrap_or_default();
        if text(tokens, at) == "as" {
            text(tokens, at + 1).clone_into(&mut name);
            at += 2;
        }
        uses.push(Use {
            path,
            name,
            line,
            is_reexport,
        });
        return at;
    }
    at
}
