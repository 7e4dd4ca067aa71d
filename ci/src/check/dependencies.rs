//! The direction of dependencies between packages, read from `cargo metadata`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::rig::command::{self, cargo};
use crate::rig::workspace;

/// Which packages of the workspace a package may depend on (in any kind of dependency).
const ALLOWED: &[(&str, &[&str])] = &[
    ("mvps-core", &[]),
    ("mvps", &["mvps-core", "s3-test-server"]),
    ("mvps-gc", &["mvps-core", "mvps"]),
    ("sim", &["mvps-core"]),
    ("ci", &["mvps-core", "mvps"]),
    ("s3-test-server", &[]),
];

/// What only the named packages may bring into a build.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("madsim", &["sim"]),
    ("fjall", &["mvps"]),
    ("object_store", &["mvps"]),
    ("aws-sdk-s3", &["mvps", "mvps-gc", "ci"]),
];

/// What the core may not name itself: each brings a clock, threads, randomness or a runtime.
/// (`rand` is in its build all the same, below the token library, which only verifies.)
const BANNED_IN_CORE: &[&str] = &["rand", "fastrand", "getrandom", "chrono", "uuid"];

/// What may not be in the core's build at all, whatever asks for it: an event loop, a store.
const BANNED_BELOW_CORE: &[&str] = &["mio", "socket2", "async-io", "fjall", "object_store"];

/// Everything that points the wrong way.
///
/// # Errors
/// If cargo cannot be asked.
pub fn findings() -> Result<Vec<String>> {
    let packages = workspace_packages()?;
    let mut findings = direct_findings(&packages);
    findings.extend(core_tree_findings()?);
    Ok(findings)
}

/// Package name → names of its direct dependencies; `dev` ones are marked.
type Packages = BTreeMap<String, Vec<Dependency>>;

#[derive(Debug, Clone)]
struct Dependency {
    name: String,
    is_dev: bool,
}

fn workspace_packages() -> Result<Packages> {
    let mut cargo = cargo();
    cargo
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(workspace::root());
    let output = command::run(&mut cargo, Duration::from_secs(120))?.stdout;
    let metadata: Value = serde_json::from_str(&output).context("cargo metadata")?;
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let dependency = |value: &Value| Dependency {
        name: text(&value["name"]),
        is_dev: value["kind"] == "dev",
    };
    Ok(array(&metadata["packages"])
        .iter()
        .map(|package| {
            let dependencies = array(&package["dependencies"]);
            let dependencies = dependencies.iter().map(dependency).collect();
            (text(&package["name"]), dependencies)
        })
        .collect())
}

fn direct_findings(packages: &Packages) -> Vec<String> {
    let mut findings = Vec::new();
    for (package, dependencies) in packages {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| name == package) else {
            findings.push(format!(
                "package {package} is not in the rules of `cargo ci check`"
            ));
            continue;
        };
        for dependency in dependencies {
            let name = dependency.name.as_str();
            let is_wrong = packages.contains_key(name) && !allowed.contains(&name);
            let tests_only = name == "s3-test-server" && !dependency.is_dev;
            if is_wrong || tests_only {
                findings.push(format!("{package} depends on {name}"));
            }
            let only = ONLY_IN.iter().find(|(banned, _)| *banned == name);
            if let Some((_, owners)) = only
                && !owners.contains(&package.as_str())
            {
                findings.push(format!("{package} depends on {name}: only {owners:?} may"));
            }
            let banned = package == "mvps-core" && BANNED_IN_CORE.contains(&name);
            if banned && !dependency.is_dev {
                findings.push(format!("mvps-core depends on {name}"));
            }
        }
    }
    findings
}

/// What the core is really built with: a feature of tokio that another package switches on does
/// not count here, one that the core itself asks for does.
fn core_tree_findings() -> Result<Vec<String>> {
    let mut cargo = cargo();
    let arguments = "tree --package mvps-core --edges normal,features --prefix none --locked";
    cargo
        .args(arguments.split(' '))
        .current_dir(workspace::root());
    let output = command::run(&mut cargo, Duration::from_secs(120))?.stdout;
    Ok(tree_findings(&output))
}

fn tree_findings(tree: &str) -> Vec<String> {
    const TOKIO_FEATURES: &[&str] = &["rt", "rt-multi-thread", "time", "net", "fs", "process"];
    let mut findings: Vec<String> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (name, second) = (words.next()?, words.next().unwrap_or(""));
            let feature = second.trim_matches('"');
            let runtime = name == "tokio" && TOKIO_FEATURES.contains(&feature);
            let banned = BANNED_BELOW_CORE.contains(&name) && second.starts_with('v');
            (runtime || banned).then(|| format!("mvps-core is built with {name} {feature}"))
        })
        .collect();
    findings.sort();
    findings.dedup();
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(package: &str, dependency: &str, is_dev: bool) -> Packages {
        let dependency = Dependency {
            name: dependency.to_owned(),
            is_dev,
        };
        let mut packages = Packages::new();
        packages.insert("mvps".to_owned(), Vec::new());
        packages.insert(package.to_owned(), vec![dependency]);
        packages
    }

    #[test]
    fn wrong_directions_are_found() {
        let check = |package, dependency, is_dev, expected: usize| {
            let found = direct_findings(&packages(package, dependency, is_dev));
            assert_eq!(
                found.len(),
                expected,
                "{package} -> {dependency}: {found:?}"
            );
        };
        check("mvps-core", "mvps", true, 1);
        check("sim", "mvps", false, 1);
        check("mvps-gc", "mvps", false, 0);
        check("mvps-core", "madsim", true, 1);
        check("sim", "madsim", false, 0);
        check("mvps-core", "rand", false, 1);
        check("surprise", "bytes", false, 1);
    }

    #[test]
    fn a_runtime_in_the_core_is_found_in_the_tree() {
        let tree = "mvps-core v0.1.0\ntokio feature \"x\"\ntokio v1.0\nbytes v1\n";
        assert!(tree_findings(tree).is_empty());
        assert_eq!(tree_findings("mio v1.0.0").len(), 1);
    }
}
