//! What waits in the buffer store, and how requests become changes of pages.
//!
//! [`changes`]: bytes as changes of pages. [`RangeMap`]: values of runs of pages. `buffer_index`:
//! where the newest content of each page is within a generation; [`IndexMemory`]: what that takes.
//! [`backpressure`]: how long a write waits as the buffer fills. [`patient`]: stores that wait for
//! room on the disk.
//!
//! Must never: know the image's task, the publisher or the map.

pub mod backpressure;
mod buffer_index;
pub mod changes;
mod index_memory;
pub mod patient;
mod range_map;

pub use buffer_index::{Buffered, GenerationIndex, RECORD_OVERHEAD_BYTES};
pub use changes::Change;
pub(in crate::engine) use changes::patched;
pub use index_memory::IndexMemory;
pub use range_map::{Advance, RangeMap, Run};
