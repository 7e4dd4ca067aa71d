//! What breaks the rules: an import through a wall, a cycle of files, a room without a rule or a
//! rule without a room, a path that leads nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cycles::{Graph, groups, shortest_cycle};
use super::imports::Imports;
use super::sources::Sources;
use super::walls::{House, Room};

/// A crate with its imports; files are named from the workspace's root.
pub struct Crate {
    /// Its files.
    pub files: Vec<PathBuf>,
    /// The imports among them.
    pub imports: Imports,
    /// The files that define something.
    pub defining: BTreeSet<usize>,
}

impl Crate {
    /// Reads the crate with the root module `crate_root` of the workspace at `root`.
    ///
    /// # Errors
    /// If a file is missing or cannot be read.
    pub fn read(root: &Path, crate_root: &str) -> Result<Self> {
        let sources = Sources::read(&root.join(crate_root))?;
        let imports = Imports::of(&sources);
        let modules = sources.all_modules().map(|(_, module)| module);
        let defining = modules.filter(|module| !module.definitions.is_empty());
        let defining = defining.map(|module| module.file.0).collect();
        let files = sources.files.iter().map(|file| {
            let name = file.strip_prefix(root).context("outside the workspace")?;
            Ok(name.to_owned())
        });
        Ok(Self {
            files: files.collect::<Result<_>>()?,
            imports,
            defining,
        })
    }

    /// The imports as a graph of files, of those for which `counts` says so.
    pub fn graph(&self, counts: impl Fn(usize) -> bool) -> Graph {
        let mut graph = Graph::new();
        for (from, to) in self.imports.lines.keys() {
            if counts(from.0) && counts(to.0) {
                graph.entry(from.0).or_default().insert(to.0);
            }
        }
        graph
    }
}

/// All breaches in the workspace at `root`, one line each.
///
/// # Errors
/// If a source cannot be read.
pub fn findings(root: &Path, houses: &[House]) -> Result<Vec<String>> {
    let mut crates = BTreeMap::new();
    for house in houses {
        if !crates.contains_key(house.crate_root) {
            crates.insert(house.crate_root, Crate::read(root, house.crate_root)?);
        }
    }
    let mut findings = Vec::new();
    for house in houses {
        findings.extend(through_walls(house, &crates[house.crate_root]));
    }
    for read in crates.values() {
        findings.extend(file_cycles(read));
        for (file, line, path) in &read.imports.lost {
            let file = read.files[file.0].display();
            findings.push(format!("{file}:{line}: {path} leads nowhere"));
        }
    }
    Ok(findings)
}

/// Imports that the table does not allow, and rooms that it does not know.
fn through_walls(house: &House, read: &Crate) -> Vec<String> {
    let mut findings = Vec::new();
    let mut unknown = BTreeSet::new();
    for ((from, to), line) in &read.imports.lines {
        let (from, to) = (&read.files[from.0], &read.files[to.0]);
        let (Some(importing), Some(imported)) = (house.room_of(from), house.room_of(to)) else {
            continue;
        };
        if importing == imported {
            continue;
        }
        match house.rule_of(&importing) {
            None => {
                unknown.insert(importing);
            }
            Some(rule) if house.allows(rule, to, &imported) => {}
            Some(_) => findings.push(format!(
                "{}:{line} imports {}: room {importing} may not import {imported}",
                from.display(),
                to.display()
            )),
        }
    }
    let named = |room: String| format!("{}: room {room} has no rule", house.directory);
    findings.extend(unknown.into_iter().map(named));
    findings.extend(without_files(house, read));
    findings
}

/// Rules of rooms that are not there.
fn without_files(house: &House, read: &Crate) -> Vec<String> {
    let rooms = read.files.iter().filter_map(|file| house.room_of(file));
    let rooms: BTreeSet<String> = rooms.collect();
    let used = rooms.iter().filter_map(|room| house.rule_of(room));
    let used: BTreeSet<&str> = used.map(|rule| rule.name).collect();
    let rules = house.rooms.iter().map(|rule| rule.name);
    let unused = rules.filter(|name| !used.contains(name));
    let described = unused.map(|name| format!("{}: no file of room {name}", house.directory));
    described.collect()
}

/// A shortest cycle of every group of files that import each other.
fn file_cycles(read: &Crate) -> Vec<String> {
    let graph = read.graph(|_| true);
    let groups = groups(read.files.len(), &graph).into_iter();
    let cyclic = groups.filter(|group| group.len() > 1);
    let described = cyclic.map(|group| {
        let mut cycle = shortest_cycle(&group, &graph);
        cycle.extend(cycle.first().copied());
        let names = cycle
            .iter()
            .map(|file| read.files[*file].display().to_string());
        let names: Vec<String> = names.collect();
        let more = match group.len() + 1 - cycle.len() {
            0 => String::new(),
            more => format!(" (and {more} more files that import each other)"),
        };
        format!("cycle: {}{more}", names.join(" -> "))
    });
    described.collect()
}

impl House {
    /// The room of `file`, which is named from the workspace's root; `None` outside this house.
    pub fn room_of(&self, file: &Path) -> Option<String> {
        let inside = file.strip_prefix(self.directory).ok()?.with_extension("");
        let mut parts = inside.iter().map(|part| part.to_string_lossy());
        let first = parts.next()?;
        match parts.next() {
            Some(second) if self.corridors.contains(&first.as_ref()) => {
                Some(format!("{first}/{second}"))
            }
            _ => Some(first.into_owned()),
        }
    }

    /// What the table says of `room`.
    fn rule_of(&self, room: &str) -> Option<&Room> {
        let corridor = room.split_once('/').map(|(corridor, _)| corridor);
        let of_corridor = corridor.map(|corridor| format!("{corridor}/*"));
        let named = |name: &str| self.rooms.iter().find(|rule| rule.name == name);
        named(room).or_else(|| of_corridor.as_deref().and_then(named))
    }

    /// Whether a room with `rule` may import `file` of the room `imported`.
    fn allows(&self, rule: &Room, file: &Path, imported: &str) -> bool {
        let file = file.strip_prefix(self.directory).unwrap_or(file);
        let file = file.with_extension("");
        rule.may_import.iter().any(|allowed| {
            let of_corridor = allowed.strip_suffix("/*").is_some_and(|corridor| {
                let rest = imported.strip_prefix(corridor);
                rest.is_some_and(|rest| rest.starts_with('/'))
            });
            *allowed == imported || of_corridor || file.starts_with(allowed)
        })
    }
}
