//! The async NBD client, with typed transactions, over any byte stream.
//!
//! A [`Client`] sends requests to its driver, a task that owns the stream and keeps as many
//! requests in flight as callers make. Replies, and chunks of them, may come in any order.
//! [`RequestedOptions`](crate::nbd::RequestedOptions) say what to negotiate: 64-bit lengths,
//! extents. A connection has one [`Transaction`] at a time. It ends by commit, by rollback or by
//! being dropped; [`Client::transact`] begins again after a conflict. [`Client::connect_tls`]
//! encrypts with a [`ClientSecurity`], which the runtime provides.
//!
//! Invariant: it uses nothing but the stream and the `Spawner`, so it is as deterministic as they
//! are. Must never: send a request that the export cannot carry.

mod connection;
mod driver;
mod error;
mod security;
#[cfg(test)]
mod tests;
mod transaction;

pub use connection::Client;
pub use error::ClientError;
pub use security::ClientSecurity;
pub use transaction::{ATTEMPTS_MAX, OPTIMISTIC_ATTEMPTS, Transaction};
