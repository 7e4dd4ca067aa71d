//! The async NBD client, with typed transactions.
