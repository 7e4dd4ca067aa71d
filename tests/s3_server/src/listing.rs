//! ListObjectsV2 over a directory: walks only below the prefix, and does not mind objects that
//! come and go meanwhile.

use std::fs;
use std::io;
use std::path::Path;

/// One row of a listing, in the order of keys.
pub(crate) enum Row {
    /// An object and its size.
    Object(String, u64),
    /// Everything below one folder.
    CommonPrefix(String),
}

impl Row {
    /// What the row is sorted by, and where the next page begins.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Object(name, _) | Self::CommonPrefix(name) => name,
        }
    }
}

/// All rows under `prefix` after `after`.
pub(crate) fn rows(
    bucket: &Path,
    prefix: &str,
    delimiter: Option<&str>,
    after: &str,
) -> io::Result<Vec<Row>> {
    let folder = prefix.rfind('/').map_or("", |slash| &prefix[..=slash]);
    let mut objects = Vec::new();
    walk(&bucket.join(folder), folder, prefix, &mut objects)?;
    objects.sort();
    let mut rows: Vec<Row> = Vec::new();
    for (key, size) in objects {
        let rest = &key[prefix.len()..];
        let cut = delimiter.and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len()));
        let row = match cut {
            Some(cut) => Row::CommonPrefix(key[..prefix.len() + cut].to_owned()),
            None => Row::Object(key, size),
        };
        let repeated = rows.last().is_some_and(|last| last.name() == row.name());
        if row.name() > after && !repeated {
            rows.push(row);
        }
    }
    Ok(rows)
}

fn walk(
    path: &Path,
    folder: &str,
    prefix: &str,
    objects: &mut Vec<(String, u64)>,
) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let key = format!("{folder}{name}");
        if metadata.is_dir() {
            let below = format!("{key}/");
            if below.starts_with(prefix) || prefix.starts_with(&below) {
                walk(&entry.path(), &below, prefix, objects)?;
            }
        } else if key.starts_with(prefix) {
            objects.push((key, metadata.len()));
        }
    }
    Ok(())
}
