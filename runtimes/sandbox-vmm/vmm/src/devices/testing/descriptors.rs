//! Who relies on a socket's end being closed once this process has closed it, and who makes
//! processes, which have copies of all descriptors until they run their programs. Tests of both
//! kinds are threads of one process.

use std::sync::{Condvar, Mutex};

/// How many rely on it now.
static RELYING: Mutex<usize> = Mutex::new(0);
static CHANGED: Condvar = Condvar::new();

/// Closing is closing as long as this lives.
pub struct Closing(());

impl Closing {
    pub fn closes() -> Self {
        *RELYING.lock().unwrap() += 1;
        Self(())
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        // A test may fail anywhere but under this lock.
        *RELYING.lock().unwrap() -= 1;
        CHANGED.notify_all();
    }
}

/// Does what makes a process while nobody relies on closing.
#[cfg(test)]
pub fn making_a_process<T>(make: impl FnOnce() -> T) -> T {
    let relying = RELYING.lock().unwrap();
    let _nobody = CHANGED.wait_while(relying, |relying| *relying > 0).unwrap();
    make()
}
