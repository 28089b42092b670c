//! Runs work on untrusted data with limits on memory, allocations, stack and time. The call always returns.
//!
//! The work runs in its own thread. The program's allocator counts the allocations of that thread ([`charge`]) and
//! checks its stack depth. Work that exceeds a limit is stopped inside the allocator: its thread sleeps until the
//! program ends and keeps its memory, and the caller gets an error. The work cannot be unwound, because it may be
//! deep in a library's recursion.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Limits of one run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Total bytes allocated, freed memory included.
    pub bytes: u64,
    /// Number of allocations. Work that walks a large structure allocates at every step.
    pub requests: u64,
    pub time: Duration,
}

/// Why the work was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitExceeded {
    Bytes,
    Requests,
    Stack,
    Time,
    /// The work panicked.
    Panic,
    /// The system could not create a thread.
    Thread,
}

impl fmt::Display for LimitExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitExceeded::Bytes => "needs too much memory",
            LimitExceeded::Requests => "does not come to an end, or walks too large a structure",
            LimitExceeded::Stack => "nests too deeply",
            LimitExceeded::Time => "does not come to an end",
            LimitExceeded::Panic => "cannot be processed: the library for it failed",
            LimitExceeded::Thread => "cannot be processed: the system has no thread for it",
        })
    }
}

/// Stack size of a worker thread. The system provides memory only for the used part.
const STACK: usize = 256 << 20;

/// Stack depth at which an allocation is refused. The rest is for recursion without allocations, such as dropping a
/// nested value, whose depth is limited by the work that built the value.
const STACK_LIMIT: usize = 48 << 20;

/// How often the caller checks whether the work was stopped.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

type Job = Box<dyn FnOnce() + Send>;

/// Idle worker threads.
static IDLE: Mutex<Vec<Sender<Job>>> = Mutex::new(Vec::new());

static TICKETS: AtomicU64 = AtomicU64::new(1);

/// For each slot (ticket modulo 64) the ticket and the reason of the last stopped work.
static STOPPED: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

/// The remaining budget of a thread. It has no destructor, so the allocator can read it at any time.
struct Account {
    /// 0 if the thread runs without limits.
    ticket: Cell<u64>,
    bytes: Cell<u64>,
    requests: Cell<u64>,
    /// Lowest stack address allowed at an allocation.
    floor: Cell<usize>,
}

thread_local! {
    static ACCOUNT: Account = const {
        Account { ticket: Cell::new(0), bytes: Cell::new(0), requests: Cell::new(0), floor: Cell::new(0) }
    };
}

/// Counts an allocation of the current thread. Does not return if a limit is exceeded.
#[inline]
pub fn charge(bytes: usize) {
    ACCOUNT.with(|account| {
        if account.ticket.get() != 0 {
            count(account, bytes as u64);
        }
    });
}

#[inline(never)]
fn count(account: &Account, bytes: u64) {
    let here = 0u8;
    let (left, requests) = (account.bytes.get(), account.requests.get());
    if left < bytes {
        stop(account, 0);
    }
    if requests == 0 {
        stop(account, 1);
    }
    if std::ptr::from_ref(&here).addr() < account.floor.get() {
        stop(account, 2);
    }
    account.bytes.set(left - bytes);
    account.requests.set(requests - 1);
}

fn stop(account: &Account, reason: u64) -> ! {
    let ticket = account.ticket.get();
    STOPPED[(ticket % 64) as usize].store(ticket << 2 | reason, Ordering::Release);
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Runs `work` within `limits`.
///
/// # Errors
///
/// The limit that was exceeded. The thread is then left asleep, or running if it exceeded the time.
pub fn run_limited<T: Send + 'static>(
    limits: Limits,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LimitExceeded> {
    let ticket = TICKETS.fetch_add(1, Ordering::Relaxed);
    let (done, result): (SyncSender<Option<T>>, _) = mpsc::sync_channel(1);
    let job: Job = Box::new(move || {
        ACCOUNT.with(|account| {
            account.bytes.set(limits.bytes);
            account.requests.set(limits.requests);
            account.ticket.set(ticket);
        });
        let made = catch_unwind(AssertUnwindSafe(work)).ok();
        ACCOUNT.with(|account| account.ticket.set(0));
        // The caller may have timed out.
        done.send(made).ok();
    });
    let worker = lock().pop().map_or_else(spawn, Some).ok_or(LimitExceeded::Thread)?;
    worker.send(job).map_err(|_| LimitExceeded::Thread)?;
    let started = Instant::now();
    loop {
        match result.recv_timeout(POLL_INTERVAL) {
            Ok(made) => {
                lock().push(worker);
                return made.ok_or(LimitExceeded::Panic);
            }
            Err(RecvTimeoutError::Disconnected) => return Err(LimitExceeded::Panic),
            Err(RecvTimeoutError::Timeout) => {
                let stopped = STOPPED[(ticket % 64) as usize].load(Ordering::Acquire);
                if stopped >> 2 == ticket {
                    let reasons = [LimitExceeded::Bytes, LimitExceeded::Requests, LimitExceeded::Stack];
                    return Err(reasons[(stopped & 3) as usize]);
                }
                if started.elapsed() > limits.time {
                    return Err(LimitExceeded::Time);
                }
            }
        }
    }
}

fn lock() -> std::sync::MutexGuard<'static, Vec<Sender<Job>>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn() -> Option<Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
    let run = move || {
        let here = 0u8;
        let floor = std::ptr::from_ref(&here).addr().saturating_sub(STACK_LIMIT);
        ACCOUNT.with(|account| account.floor.set(floor));
        for job in jobs {
            job();
        }
    };
    std::thread::Builder::new().name("confined".to_string()).stack_size(STACK).spawn(run).ok()?;
    Some(sender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    const SMALL: Limits = Limits { bytes: 1 << 20, requests: 10_000, time: Duration::from_secs(60) };

    #[test]
    fn work_within_limits_returns_its_result() {
        assert_eq!(run_limited(SMALL, || black_box(vec![1u8; 1000]).len()), Ok(1000));
        // The budget is reset for every run.
        for _ in 0..5 {
            assert_eq!(run_limited(SMALL, || black_box(vec![1u8; 600_000]).len()), Ok(600_000));
        }
        // Other threads have no limits.
        assert_eq!(black_box(vec![1u8; 2 << 20]).len(), 2 << 20);
    }

    fn deep(level: u64) -> u64 {
        let own = black_box(Box::new(level));
        let below = if level == u64::MAX { 0 } else { deep(*own + 1) };
        below + *own
    }

    #[test]
    fn each_limit_stops_the_work() {
        assert_eq!(run_limited(SMALL, || black_box(vec![1u8; 2 << 20]).len()), Err(LimitExceeded::Bytes));
        let growing = || {
            let mut text = String::from("ab");
            while !text.is_empty() {
                text.push_str(&text.clone());
            }
        };
        assert_eq!(run_limited(SMALL, growing), Err(LimitExceeded::Bytes));
        let walking = || (0..u64::MAX).map(|item| black_box(Box::new(item)).count_ones()).sum::<u32>();
        assert_eq!(run_limited(SMALL, walking), Err(LimitExceeded::Requests));
        let nesting = || deep(0);
        let many = Limits { bytes: 1 << 40, requests: 1 << 40, ..SMALL };
        assert_eq!(run_limited(many, nesting), Err(LimitExceeded::Stack));
        let waiting = || std::thread::sleep(Duration::from_secs(3600));
        assert_eq!(run_limited(Limits { time: Duration::from_millis(20), ..SMALL }, waiting), Err(LimitExceeded::Time));
        assert_eq!(run_limited(SMALL, || 7), Ok(7));
    }
}
