//! Follows a path to the file that defines the item, through re-exports.
//!
//! A name that a module does not visibly define counts as defined there: a macro may have made it.

use super::sources::{GLOB, ModuleId, ROOT, Sources};

/// Where a path leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To a module itself.
    Module(ModuleId),
    /// To an item that this module defines.
    Item(ModuleId),
    /// Out of the crate, or to a name of the language.
    Outside,
    /// Above the crate's root.
    Nowhere,
}

/// The names that are being followed; a cycle of re-exports ends at the second visit.
type Visited<'a> = Vec<(ModuleId, &'a str)>;

/// Follows `path` from the code of `module`.
pub fn resolve(sources: &Sources, module: ModuleId, path: &[String]) -> Target {
    follow(sources, module, path, &mut Visited::new())
}

fn follow<'a>(
    sources: &'a Sources,
    module: ModuleId,
    path: &'a [String],
    visited: &mut Visited<'a>,
) -> Target {
    let Some(first) = path.first() else {
        return Target::Module(module);
    };
    match first.as_str() {
        "crate" => walk(sources, ROOT, &path[1..], visited),
        "self" => walk(sources, module, &path[1..], visited),
        "super" => {
            let steps = path.iter().take_while(|name| *name == "super").count();
            let mut above = Some(module);
            for _ in 0..steps {
                above = above.and_then(|module| sources.module(module).parent);
            }
            match above {
                Some(above) => walk(sources, above, &path[steps..], visited),
                None => Target::Nowhere,
            }
        }
        _ => {
            let here = sources.module(module);
            let is_known = here.children.contains_key(first)
                || here.definitions.contains(first)
                || here
                    .uses
                    .iter()
                    .any(|used| used.name == *first || used.name == GLOB);
            match is_known {
                true => walk(sources, module, path, visited),
                false => Target::Outside,
            }
        }
    }
}

/// Follows `path` inside `module`.
fn walk<'a>(
    sources: &'a Sources,
    module: ModuleId,
    path: &'a [String],
    visited: &mut Visited<'a>,
) -> Target {
    let Some((name, rest)) = path.split_first() else {
        return Target::Module(module);
    };
    let here = sources.module(module);
    let child = here.children.get(name);
    // One name may be a module's and a function's: at the end of a path the function is meant, if
    // there is one, before that the module.
    if let (Some(child), false) = (child, rest.is_empty()) {
        return walk(sources, *child, rest, visited);
    }
    let imported = imported(sources, module, name, visited);
    if let Some(Target::Item(at)) = imported {
        return Target::Item(at);
    }
    if here.definitions.contains(name) {
        return Target::Item(module);
    }
    if let Some(child) = child {
        return Target::Module(*child);
    }
    match imported {
        Some(Target::Module(at)) => walk(sources, at, rest, visited),
        Some(elsewhere) => elsewhere,
        None => Target::Item(module),
    }
}

/// Where a `use` declaration of `module` takes `name` from.
fn imported<'a>(
    sources: &'a Sources,
    module: ModuleId,
    name: &'a str,
    visited: &mut Visited<'a>,
) -> Option<Target> {
    if visited.contains(&(module, name)) {
        return None;
    }
    visited.push((module, name));
    let uses = &sources.module(module).uses;
    let mut found = None;
    for used in uses.iter().filter(|used| used.name == name) {
        let target = follow(sources, module, &used.path, visited);
        if matches!(target, Target::Item(_)) {
            return Some(target);
        }
        found = Some(target);
    }
    if found.is_some() {
        return found;
    }
    for used in uses.iter().filter(|used| used.name == GLOB) {
        let Target::Module(from) = follow(sources, module, &used.path, visited) else {
            continue;
        };
        let there = sources.module(from);
        if from == module || visited.contains(&(from, name)) {
            continue;
        }
        if there.definitions.contains(name) {
            return Some(Target::Item(from));
        }
        if let Some(child) = there.children.get(name) {
            return Some(Target::Module(*child));
        }
        let further = imported(sources, from, name, visited);
        if further.is_some() {
            return further;
        }
    }
    None
}
