//! Runs of one workload: undisturbed, and as one small world.
//!
//! A server runs the workload, and stops at a call. Its buffer store is what the world says. Then
//! another server opens the image: on the same buffer store without anybody's help, or on an
//! empty one, where it must be refused as long as the image has an active writer, and let in after
//! a takeover. What it finds must be one state of the workload (oracles 2, 3), no older than what
//! was promised (1). It writes, checkpoints and closes while what was under way lands late or
//! the first server wakes up; what it serves never changes by that (6). A third server with an
//! empty buffer store finds exactly what the second one left.

use super::judge::judge;
use super::point::Point;
use super::workload::{Letter, Shape};
use super::world::{Trace, Violation, World};

/// Runs `word` undisturbed on an image of `shape`.
///
/// # Errors
/// If an operation fails, which none may.
pub fn trace(shape: Shape, word: &[Letter]) -> Result<Trace, Violation> {
    let mut world = World::new(shape, None, false);
    let outcome = world.work(word, false);
    outcome.map_err(|what| world.violated(what))?;
    let known = world.progress.known();
    Ok(Trace {
        calls: world.first.gate.calls(),
        starts: known.starts.clone(),
        rest: world.first.gate.risk(),
    })
}

/// Runs the world of `shape`, `word` and `point`, whose undisturbed run was `trace`; with a log of its
/// events if that is `told`.
///
/// # Errors
/// The first promise that does not hold.
pub fn run(
    shape: Shape,
    word: &[Letter],
    trace: &Trace,
    point: Point,
    told: bool,
) -> Result<Vec<String>, Violation> {
    let mut world = World::new(shape, Some(point), told);
    let stops = point.call < trace.calls.len();
    let worked = world.work(word, stops);
    match worked.and_then(|()| judge(&mut world, point)) {
        Ok(()) => Ok(world.events()),
        Err(what) => Err(world.violated(what)),
    }
}
