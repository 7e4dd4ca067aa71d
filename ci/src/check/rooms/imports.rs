//! Which file imports which.

use std::collections::BTreeMap;

use super::resolve::{Target, resolve};
use super::sources::{FileId, GLOB, Module, ModuleId, Sources};

/// The imports of a crate.
#[derive(Debug, Default)]
pub struct Imports {
    /// Who imports whom, and the first line that does.
    pub lines: BTreeMap<(FileId, FileId), usize>,
    /// Paths that lead above the crate's root.
    pub lost: Vec<(FileId, usize, String)>,
}

impl Imports {
    /// All of them.
    pub fn of(sources: &Sources) -> Self {
        let mut imports = Self::default();
        for (id, module) in sources.all_modules() {
            for used in &module.uses {
                // What `use super::*` brings in is found by name, where it is used.
                if used.name == GLOB {
                    continue;
                }
                match (used.is_reexport, module.names.get(&used.name)) {
                    (false, _) => imports.note(sources, id, module, &used.path, used.line),
                    (true, Some(line)) => imports.note(sources, id, module, &used.path, *line),
                    (true, None) => {}
                }
            }
            for mention in &module.mentions {
                imports.note(sources, id, module, &mention.path, mention.line);
            }
            imports.note_globs(sources, id, module);
        }
        imports
    }

    /// Names that stand alone may come from a module that is imported whole.
    fn note_globs(&mut self, sources: &Sources, id: ModuleId, module: &Module) {
        if !module.uses.iter().any(|used| used.name == GLOB) {
            return;
        }
        for (name, line) in &module.names {
            let own = module.definitions.contains(name) || module.children.contains_key(name);
            if own || module.uses.iter().any(|used| used.name == *name) {
                continue;
            }
            let path = ["self".to_owned(), name.clone()];
            self.note(sources, id, module, &path, *line);
        }
    }

    fn note(
        &mut self,
        sources: &Sources,
        id: ModuleId,
        module: &Module,
        path: &[String],
        line: usize,
    ) {
        let from = module.file;
        match resolve(sources, id, path) {
            Target::Item(defining) => {
                let to = sources.module(defining).file;
                if to != from {
                    let first = self.lines.entry((from, to)).or_insert(line);
                    *first = line.min(*first);
                }
            }
            Target::Nowhere => self.lost.push((from, line, path.join("::"))),
            Target::Module(_) | Target::Outside => {}
        }
    }
}
