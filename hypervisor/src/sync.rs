//! Atomics and locks: the only importer of `core::sync::atomic` and of `spin` in this crate.
//!
//! Everybody else says `use crate::sync::…`, so that under `cfg(loom)` the very code that runs in the image runs on
//! loom's model of memory. The locks are absent there: a protocol worth a model has none. Loom's atomics have no
//! `const` constructor; types that need one say so with a second `new` under `cfg(loom)`. No locks of its own.

#[cfg(not(loom))]
pub use core::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence, fence,
};

#[cfg(loom)]
pub use loom::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

#[cfg(not(loom))]
pub use spin::{Mutex, MutexGuard, Once};

/// A lock that serves in the order of coming, for what one VM could keep from another.
#[cfg(not(loom))]
pub type TicketMutex<T> = spin::mutex::TicketMutex<T>;
