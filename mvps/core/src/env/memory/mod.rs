//! In-memory implementations, for tests and as the reference of the conformance suites.
