//! The async NBD client, with typed transactions, over any byte stream.
//!
//! A [`Client`] sends requests to its driver, a task that owns the stream and keeps as many
//! requests in flight as callers make; replies, and chunks of them, may come in any order.
//! [`RequestedOptions`](crate::nbd::RequestedOptions) say what to negotiate: 64-bit lengths, extents.
//! [`Transaction`]s are typed: one at a time per connection, ended by commit, by rollback or by
//! being dropped; [`Client::transact`] begins again after a conflict. [`Client::connect_tls`]
//! encrypts with what a [`ClientSecurity`] brings along, which is the runtime's.
//!
//! Invariant: it uses nothing but the stream and the `Spawner`, so it is as deterministic as they
//! are. Must never: send a request that the export cannot carry.

mod connection;
mod driver;
mod security;
#[cfg(test)]
mod tests;
mod transaction;

pub use connection::{Client, ClientError};
pub use security::ClientSecurity;
pub use transaction::{ATTEMPTS_MAX, OPTIMISTIC_ATTEMPTS, Transaction};
