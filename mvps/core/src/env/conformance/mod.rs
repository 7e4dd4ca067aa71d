//! Suites that every implementation of an environment trait passes, real or simulated.
