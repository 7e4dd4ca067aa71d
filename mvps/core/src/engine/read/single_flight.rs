//! One request for what several readers miss at the same time.
//!
//! Job: a *flight* is a shared future that brings the values of one or more keys. Whoever misses a
//! key that is already on its way joins that flight instead of asking again.
//!
//! Invariants: a key is in at most one flight. A flight is driven by whoever waits for it, so a
//! reader that goes away stops nobody else; when the last one goes away the flight is dropped and
//! its keys are free again.
//!
//! Must never: keep results (that is a cache's work), start tasks, or hold its lock across an
//! await.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

/// A request under way, to be awaited; all that await it get a clone of the result.
pub type Flight<T> = Shared<BoxFuture<'static, T>>;

/// A request to be started, and the keys that it brings.
pub struct NewRequest<K, T> {
    /// What it brings: none of these keys is in another flight.
    pub keys: Vec<K>,
    /// What to do. Not polled before [`SingleFlight::join`] has returned.
    pub request: BoxFuture<'static, T>,
}

/// Requests in flight, by the keys that each brings: who asks for a key joins the request for it.
pub struct SingleFlight<K: Ord, T: Clone> {
    in_flight: Arc<InFlight<K, T>>,
}

struct InFlight<K: Ord, T: Clone> {
    flights: Mutex<Flights<K, T>>,
}

struct Flights<K: Ord, T: Clone> {
    /// The number that the next flight gets.
    next_number: u64,
    under_way: BTreeMap<K, (u64, WeakShared<BoxFuture<'static, T>>)>,
}

impl<K: Ord, T: Clone> InFlight<K, T> {
    fn lock(&self) -> MutexGuard<'_, Flights<K, T>> {
        // Nothing is left half done by a panic: entries are inserted and removed whole.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Frees a flight's keys when its future ends, whether it came to a result or was dropped.
struct Release<K: Ord, T: Clone> {
    in_flight: Arc<InFlight<K, T>>,
    number: u64,
    keys: Vec<K>,
}

impl<K: Ord, T: Clone> Drop for Release<K, T> {
    fn drop(&mut self) {
        let mut flights = self.in_flight.lock();
        for key in &self.keys {
            if flights
                .under_way
                .get(key)
                .is_some_and(|(number, _)| *number == self.number)
            {
                flights.under_way.remove(key);
            }
        }
    }
}

impl<K, T> Default for SingleFlight<K, T>
where
    K: Ord + Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    fn default() -> Self {
        Self::new()
    }
}

impl<K, T> SingleFlight<K, T>
where
    K: Ord + Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Nothing under way.
    #[must_use]
    pub fn new() -> Self {
        let flights = Flights {
            next_number: 0,
            under_way: BTreeMap::new(),
        };
        let flights = Mutex::new(flights);
        Self {
            in_flight: Arc::new(InFlight { flights }),
        }
    }

    /// The flights that bring `keys`, in their order: those under way, and for the other keys those
    /// that `plan` starts. `plan` gets the keys that nobody is bringing and returns requests that
    /// bring each of them exactly once; it is called at most once, and no key can be claimed by
    /// another caller meanwhile, so a cache that flights fill is asked there once more.
    pub fn join(
        &self,
        keys: &[K],
        plan: impl FnOnce(&BTreeSet<K>) -> Vec<NewRequest<K, T>>,
    ) -> Vec<Flight<T>> {
        // Every flight touched here is held until the lock is released: dropping the last holder of
        // a flight takes it.
        let mut held: Vec<Flight<T>> = Vec::new();
        let mut found: BTreeMap<K, Flight<T>> = BTreeMap::new();
        let mut flights = self.in_flight.lock();
        let mut missing = BTreeSet::new();
        for key in keys {
            let entry = flights.under_way.get(key);
            match entry.and_then(|(_, flight)| flight.upgrade()) {
                Some(flight) => {
                    held.push(flight.clone());
                    found.insert(key.clone(), flight);
                }
                None => {
                    missing.insert(key.clone());
                }
            }
        }
        if !missing.is_empty() {
            for new in plan(&missing) {
                let flight = self.start(&mut flights, &new.keys, new.request);
                held.push(flight.clone());
                found.extend(new.keys.into_iter().map(|key| (key, flight.clone())));
            }
        }
        drop(flights);
        let flight_of = |key| found.get(key).cloned().expect("every key has a flight");
        keys.iter().map(flight_of).collect()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.in_flight.lock().under_way.len()
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn start(
        &self,
        flights: &mut Flights<K, T>,
        keys: &[K],
        request: BoxFuture<'static, T>,
    ) -> Flight<T> {
        let number = flights.next_number;
        flights.next_number += 1;
        let release = Release {
            in_flight: Arc::clone(&self.in_flight),
            number,
            keys: keys.to_vec(),
        };
        let flight = async move {
            let _release = release;
            request.await
        };
        let flight = flight.boxed().shared();
        for key in keys {
            let weak = flight
                .downgrade()
                .expect("a flight that was not polled has not ended");
            flights.under_way.insert(key.clone(), (number, weak));
        }
        flight
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    /// Requests that wait for `gate` and count themselves.
    struct Source {
        gate: Arc<Notify>,
        requests: Arc<AtomicUsize>,
        flights: SingleFlight<u32, u32>,
    }

    impl Source {
        fn new() -> Self {
            Self {
                gate: Arc::default(),
                requests: Arc::default(),
                flights: SingleFlight::new(),
            }
        }

        fn ask(&self, keys: &[u32]) -> Vec<Flight<u32>> {
            self.flights.join(keys, |missing| {
                let (gate, requests) = (self.gate.clone(), self.requests.clone());
                let sum = missing.iter().sum();
                let request = async move {
                    requests.fetch_add(1, Ordering::Relaxed);
                    gate.notified().await;
                    sum
                };
                vec![NewRequest {
                    keys: missing.iter().copied().collect(),
                    request: request.boxed(),
                }]
            })
        }

        fn requests(&self) -> usize {
            self.requests.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn readers_of_one_key_share_a_request() {
        let source = Source::new();
        let flights: Vec<_> = (0..5).flat_map(|_| source.ask(&[7])).collect();
        source.gate.notify_one();
        assert_eq!(join_all(flights).await, [7; 5]);
        assert_eq!(source.requests(), 1);
        assert!(source.flights.is_empty());
    }

    #[tokio::test]
    async fn only_what_nobody_brings_is_asked_for() {
        let source = Source::new();
        let first = source.ask(&[1, 2]);
        let second = source.ask(&[2, 3, 2, 3]);
        assert_eq!(source.flights.len(), 3);
        source.gate.notify_one();
        assert_eq!(join_all(first).await, [3, 3]);
        source.gate.notify_one();
        assert_eq!(join_all(second).await, [3, 3, 3, 3]);
        assert_eq!(source.requests(), 2);
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_stops_nobody() {
        let source = Source::new();
        let mut first = source.ask(&[1]).remove(0);
        assert!((&mut first).now_or_never().is_none());
        let second = source.ask(&[1]).remove(0);
        let waiting = tokio::spawn(second);
        tokio::task::yield_now().await;
        drop(first);
        source.gate.notify_one();
        assert_eq!(waiting.await.unwrap(), 1);
        assert_eq!(source.requests(), 1);
    }

    #[tokio::test]
    async fn a_flight_that_nobody_awaits_frees_its_keys() {
        let source = Source::new();
        let mut only = source.ask(&[1]).remove(0);
        assert!((&mut only).now_or_never().is_none());
        drop(only);
        assert!(source.flights.is_empty());
        let again = source.ask(&[1]).remove(0);
        source.gate.notify_one();
        assert_eq!(again.await, 1);
        assert_eq!(source.requests(), 2);
    }
}
