//! Object storage as the core uses it: retries, time-outs and lost replies over any `ObjectStore`.
