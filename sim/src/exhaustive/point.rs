//! Where and how a world goes wrong, and which worlds there are of a workload.

use std::fmt;

/// One call of a trait by the process under test, as its undisturbed run shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Which, for people.
    pub what: String,
    /// A request to the object store; otherwise a call of the buffer store.
    pub object: bool,
    /// It changes something.
    pub mutates: bool,
    /// What a power cut could lose before it.
    pub before: Risk,
    /// What a power cut could lose when it was carried out.
    pub after: Risk,
}

/// What a power cut could lose of a buffer store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Risk {
    /// Unsynced operations.
    pub operations: usize,
    /// A drop of a generation is among them.
    pub drops: bool,
}

/// What becomes of the call at which the process stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// The process dies; the call was not carried out.
    Lost,
    /// The process dies; the call was carried out.
    Landed,
    /// The process dies; the call is carried out when the next server has opened the image.
    LateAfterOpening,
    /// The process dies; the call is carried out when the next server has published a checkpoint.
    LateAfterCheckpoint,
    /// The process sleeps until another server has taken the image over, and goes on.
    SleptThroughTakeover,
    /// The process sleeps until another server has taken over and published a checkpoint.
    SleptThroughCheckpoint,
}

/// What becomes of the buffer store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disk {
    /// It keeps everything: a process kill.
    Kept,
    /// A power cut: it keeps the first unsynced operations.
    Torn {
        /// How many.
        kept: usize,
        /// Unsynced drops of generations stay; otherwise those generations are back.
        drops_stay: bool,
    },
    /// It is gone, or out of reach: another machine with an empty one goes on.
    Lost,
}

/// How one world goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// At which call, counted from 0; the number of all calls if the process is at rest.
    pub call: usize,
    /// What becomes of the call.
    pub fate: Fate,
    /// What becomes of the buffer store.
    pub disk: Disk,
}

const FATES: [(Fate, &str); 6] = [
    (Fate::Lost, "lost"),
    (Fate::Landed, "landed"),
    (Fate::LateAfterOpening, "late1"),
    (Fate::LateAfterCheckpoint, "late2"),
    (Fate::SleptThroughTakeover, "slept1"),
    (Fate::SleptThroughCheckpoint, "slept2"),
];

impl Fate {
    /// The process goes on later.
    #[must_use]
    pub fn sleeps(self) -> bool {
        matches!(
            self,
            Self::SleptThroughTakeover | Self::SleptThroughCheckpoint
        )
    }

    /// Its name within the name of a world.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = FATES.iter().find(|(fate, _)| *fate == self);
        found.expect("every fate has a name").1
    }
}

impl fmt::Display for Point {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:", self.call, self.fate.name())?;
        match self.disk {
            Disk::Kept => formatter.write_str("kept"),
            Disk::Lost => formatter.write_str("gone"),
            Disk::Torn { kept, drops_stay } => {
                let drops = if drops_stay { "" } else { "+back" };
                write!(formatter, "torn{kept}{drops}")
            }
        }
    }
}

impl Point {
    /// Reads what [`Point`] shows.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let call = parts.next()?.parse().ok()?;
        let fate = parts.next()?;
        let (fate, _) = FATES.into_iter().find(|(_, name)| *name == fate)?;
        let disk = match parts.next()? {
            "kept" => Disk::Kept,
            "gone" => Disk::Lost,
            torn => {
                let kept = torn.strip_prefix("torn")?;
                let cut = kept.strip_suffix("+back");
                Disk::Torn {
                    kept: cut.unwrap_or(kept).parse().ok()?,
                    drops_stay: cut.is_none(),
                }
            }
        };
        parts.next().is_none().then_some(Self { call, fate, disk })
    }
}

/// Every way in which a process can stop at one of `calls` from the `first` on, or at rest after
/// the last. Left out is only what is the same as another:
/// - a call that changes nothing is lost, never landed or late;
/// - a call of the buffer store is never late: it ends with its process;
/// - a power cut that loses nothing and brings nothing back is a kill.
#[must_use]
pub fn points(calls: &[Call], first: usize, rest: Risk) -> Vec<Point> {
    let mut points = Vec::new();
    for (number, call) in calls.iter().enumerate().skip(first) {
        with_disks(&mut points, number, Fate::Lost, call.before);
        if call.mutates {
            with_disks(&mut points, number, Fate::Landed, call.after);
        }
        if call.mutates && call.object {
            with_disks(&mut points, number, Fate::LateAfterOpening, call.before);
            with_disks(&mut points, number, Fate::LateAfterCheckpoint, call.before);
        }
        asleep(&mut points, number);
    }
    with_disks(&mut points, calls.len(), Fate::Lost, rest);
    asleep(&mut points, calls.len());
    points
}

fn with_disks(points: &mut Vec<Point>, call: usize, fate: Fate, risk: Risk) {
    let mut add = |disk| points.push(Point { call, fate, disk });
    add(Disk::Kept);
    add(Disk::Lost);
    for kept in 0..=risk.operations {
        for drops_stay in [true, false] {
            let same_as_kept = kept == risk.operations && drops_stay;
            let same_as_other = !drops_stay && !risk.drops;
            if !same_as_kept && !same_as_other {
                add(Disk::Torn { kept, drops_stay });
            }
        }
    }
}

fn asleep(points: &mut Vec<Point>, call: usize) {
    for fate in [Fate::SleptThroughTakeover, Fate::SleptThroughCheckpoint] {
        points.push(Point {
            call,
            fate,
            disk: Disk::Lost,
        });
    }
}
