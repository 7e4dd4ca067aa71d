//! The figures of the houses: how many files and imports their rooms have, and how many point the
//! wrong way.
//!
//! An import counts once for each pair of rooms. Which imports go up is counted for the order of
//! the rooms that leaves the fewest, so that a tree without a table of rooms can be counted, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::cycles::{Graph, groups};
use super::findings::Crate;
use super::floors::floors;
use super::walls::House;

/// A row: a room, or the sum.
struct Row {
    name: String,
    figures: [usize; 4],
    imports: String,
}

/// The tables of all houses of the workspace at `root`.
///
/// # Errors
/// If a source cannot be read.
pub fn report(root: &Path, houses: &[House]) -> Result<String> {
    let mut text = String::new();
    for house in houses {
        let read = Crate::read(root, house.crate_root)?;
        text += &table(house, &read);
    }
    Ok(text)
}

/// The table of one house, from the top room to the bottom one.
fn table(house: &House, read: &Crate) -> String {
    let rooms = Rooms::of(house, read);
    let floors = floors(rooms.names.len(), &rooms.imports);
    let cycles = rooms.cycles(read);
    let mut rows = Vec::new();
    for room in floors.order.iter().rev() {
        let imported = rooms.imports.get(room).into_iter().flatten();
        let names = imported.clone().map(|below| {
            let mark = match floors.up.contains(&(*room, *below)) {
                true => "^",
                false => "",
            };
            format!("{mark}{}", rooms.names[*below])
        });
        let names: Vec<String> = names.collect();
        rows.push(Row {
            name: rooms.names[*room].clone(),
            figures: [
                rooms.files[*room],
                imported.count(),
                floors.up.iter().filter(|(from, _)| from == room).count(),
                cycles.iter().filter(|rooms| rooms.contains(room)).count(),
            ],
            imports: names.join(" "),
        });
    }
    let sum = |column: usize| rows.iter().map(|row| row.figures[column]).sum();
    let total = Row {
        name: format!("{} rooms, {} floors", rows.len(), floors.count),
        figures: [sum(0), sum(1), sum(2), cycles.len()],
        imports: String::new(),
    };
    rows.push(total);
    print(house.name, &rows)
}

fn print(title: &str, rows: &[Row]) -> String {
    let widest = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let mut text =
        format!("\n{title:<widest$}  files  imports  back up  cycles  imports from (^ back up)\n");
    for Row {
        name,
        figures: [files, imports, up, cycles],
        imports: from,
    } in rows
    {
        let row =
            format!("{name:<widest$}  {files:>5}  {imports:>7}  {up:>7}  {cycles:>6}  {from}");
        writeln!(text, "{}", row.trim_end()).expect("a string takes everything");
    }
    text
}

/// The rooms of a house, numbered by their names.
struct Rooms {
    names: Vec<String>,
    /// The room of each file that is in one.
    of_file: BTreeMap<usize, usize>,
    /// How many files each room has.
    files: Vec<usize>,
    imports: Graph,
}

impl Rooms {
    /// A file that defines nothing and imports nothing (it only declares modules) is in no room.
    fn of(house: &House, read: &Crate) -> Self {
        let importing = read.imports.lines.keys().map(|(from, _)| from.0);
        let counted: BTreeSet<usize> = importing.chain(read.defining.iter().copied()).collect();
        let named = read.files.iter().enumerate().filter_map(|(file, path)| {
            let room = house.room_of(path)?;
            counted.contains(&file).then_some((file, room))
        });
        let named: Vec<(usize, String)> = named.collect();
        let names: BTreeSet<&String> = named.iter().map(|(_, room)| room).collect();
        let names: Vec<String> = names.into_iter().cloned().collect();
        let mut of_file = BTreeMap::new();
        let mut files = vec![0; names.len()];
        for (file, room) in &named {
            let number = names.iter().position(|name| name == room);
            let number = number.expect("every room is named");
            of_file.insert(*file, number);
            files[number] += 1;
        }
        let mut imports = Graph::new();
        for (from, to) in read.imports.lines.keys() {
            if let (Some(from), Some(to)) = (of_file.get(&from.0), of_file.get(&to.0))
                && from != to
            {
                imports.entry(*from).or_default().insert(*to);
            }
        }
        Self {
            names,
            of_file,
            files,
            imports,
        }
    }

    /// The groups of files that import each other, each as the rooms that its files are in.
    fn cycles(&self, read: &Crate) -> Vec<BTreeSet<usize>> {
        let graph = read.graph(|file| self.of_file.contains_key(&file));
        let groups = groups(read.files.len(), &graph).into_iter();
        let cyclic = groups.filter(|group| group.len() > 1);
        let rooms = cyclic.map(|group| group.iter().map(|file| self.of_file[file]).collect());
        rooms.collect()
    }
}
