//! Mutexes that outlive a panic.

use std::sync::{Mutex, MutexGuard};

/// What is behind a mutex, also after a thread that held it has panicked.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
