//! Named points in the program where crash tests abort the process.

use std::sync::OnceLock;

static ON_CRASH_POINT: OnceLock<fn(&str)> = OnceLock::new();

/// A point between two changes of the file system, where a crash leaves a distinct state. Does nothing unless
/// [`on_crash_point`] was called.
pub fn crash_point(name: &str) {
    if let Some(observe) = ON_CRASH_POINT.get() {
        observe(name);
    }
}

/// Calls `observe` at every crash point of this process from now on. Crash tests abort the process there.
pub fn on_crash_point(observe: fn(&str)) {
    let _ = ON_CRASH_POINT.set(observe);
}
