use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, whether or not a thread has panicked with it: what we keep in one is whole between any
/// two statements, and the panic itself is a bug that has been reported already.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_panic_elsewhere_is_no_reason_to_panic() {
        let mutex = Arc::new(Mutex::new(7));
        let other = mutex.clone();
        let thread = std::thread::spawn(move || {
            let _held = lock(&other);
            panic!("with the mutex held");
        });
        thread.join().expect_err("it has panicked");
        assert!(mutex.is_poisoned());
        assert_eq!(*lock(&mutex), 7);
    }
}
