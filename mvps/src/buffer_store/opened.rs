//! What opening a store gives.

use super::database::Found;
use super::databases::Databases;
use super::sync::Journals;

/// A store whose databases are open.
pub struct Opened {
    /// The databases.
    pub databases: Databases,
    /// Their journals.
    pub journals: Journals,
    /// What is in all of them together.
    pub found: Found,
}
