//! Runs work on foreign data within bounds of memory, stack and time, and comes back in any case. Knows nothing of the work.
//!
//! The work runs in a thread of its own. The program's allocator counts what that thread asks for ([`charge`]) and looks how
//! deep its stack is. Work that goes too far is stopped where it stands, in the allocator: its thread sleeps until the
//! program ends, with the memory that it has, and the caller gets an error. No such work can be unwound: it may be deep in a
//! library's recursion.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How far work may go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes that it asks for, those that it gives back included.
    pub bytes: u64,
    /// How often it asks for memory: work that walks a large structure asks at every step.
    pub requests: u64,
    pub time: Duration,
}

/// Why work was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    Bytes,
    Requests,
    Stack,
    Time,
    /// It panicked.
    Panic,
    /// There was no thread for it.
    Thread,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Exceeded::Bytes => "needs too much memory",
            Exceeded::Requests => "does not come to an end, or walks too large a structure",
            Exceeded::Stack => "nests too deeply",
            Exceeded::Time => "does not come to an end",
            Exceeded::Panic => "cannot be processed: the library for it failed",
            Exceeded::Thread => "cannot be processed: the system has no thread for it",
        })
    }
}

/// Stack of a thread for such work. The system gives it memory only where it is used.
const STACK: usize = 256 << 20;

/// What of it may be in use when memory is asked for. The rest is for recursion that asks for none, such as dropping a nested
/// value, and is bounded by what made the value.
const REACH: usize = 48 << 20;

/// How often the caller looks whether its work was stopped.
const LOOK: Duration = Duration::from_millis(5);

type Job = Box<dyn FnOnce() + Send>;

/// Threads that wait for work.
static IDLE: Mutex<Vec<Sender<Job>>> = Mutex::new(Vec::new());

static TICKETS: AtomicU64 = AtomicU64::new(1);

/// The last work that was stopped, by ticket and reason, in the place of its ticket.
static STOPPED: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

/// What a thread's work has left. Without a destructor, so that the allocator may look at any time.
struct Account {
    /// 0: no work is bounded on this thread.
    ticket: Cell<u64>,
    bytes: Cell<u64>,
    requests: Cell<u64>,
    /// Lowest address that the stack may have reached.
    floor: Cell<usize>,
}

thread_local! {
    static ACCOUNT: Account = const {
        Account { ticket: Cell::new(0), bytes: Cell::new(0), requests: Cell::new(0), floor: Cell::new(0) }
    };
}

/// Counts memory that the present thread asks for. Does not come back if its work has gone too far.
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

/// Does `work` within `bounds`.
///
/// # Errors
///
/// Why it was stopped. Its thread is left asleep then, or running where it ran out of time.
pub fn confined<T: Send + 'static>(bounds: Bounds, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Exceeded> {
    let ticket = TICKETS.fetch_add(1, Ordering::Relaxed);
    let (done, result): (SyncSender<Option<T>>, _) = mpsc::sync_channel(1);
    let job: Job = Box::new(move || {
        ACCOUNT.with(|account| {
            account.bytes.set(bounds.bytes);
            account.requests.set(bounds.requests);
            account.ticket.set(ticket);
        });
        let made = catch_unwind(AssertUnwindSafe(work)).ok();
        ACCOUNT.with(|account| account.ticket.set(0));
        // The caller may have given up on it.
        done.send(made).ok();
    });
    let worker = lock().pop().map_or_else(spawn, Some).ok_or(Exceeded::Thread)?;
    worker.send(job).map_err(|_| Exceeded::Thread)?;
    let began = Instant::now();
    loop {
        match result.recv_timeout(LOOK) {
            Ok(made) => {
                lock().push(worker);
                return made.ok_or(Exceeded::Panic);
            }
            Err(RecvTimeoutError::Disconnected) => return Err(Exceeded::Panic),
            Err(RecvTimeoutError::Timeout) => {
                let stopped = STOPPED[(ticket % 64) as usize].load(Ordering::Acquire);
                if stopped >> 2 == ticket {
                    return Err([Exceeded::Bytes, Exceeded::Requests, Exceeded::Stack][(stopped & 3) as usize]);
                }
                if began.elapsed() > bounds.time {
                    return Err(Exceeded::Time);
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
        let floor = std::ptr::from_ref(&here).addr().saturating_sub(REACH);
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

    const SMALL: Bounds = Bounds { bytes: 1 << 20, requests: 10_000, time: Duration::from_secs(60) };

    #[test]
    fn work_within_its_bounds_is_done() {
        assert_eq!(confined(SMALL, || black_box(vec![1u8; 1000]).len()), Ok(1000));
        // What one work used is not counted for the next.
        for _ in 0..5 {
            assert_eq!(confined(SMALL, || black_box(vec![1u8; 600_000]).len()), Ok(600_000));
        }
        // Nor anything outside.
        assert_eq!(black_box(vec![1u8; 2 << 20]).len(), 2 << 20);
    }

    fn deep(level: u64) -> u64 {
        let own = black_box(Box::new(level));
        let below = if level == u64::MAX { 0 } else { deep(*own + 1) };
        below + *own
    }

    #[test]
    fn work_that_goes_too_far_is_stopped_and_its_caller_told_why() {
        assert_eq!(confined(SMALL, || black_box(vec![1u8; 2 << 20]).len()), Err(Exceeded::Bytes));
        let growing = || {
            let mut text = String::from("ab");
            while !text.is_empty() {
                text.push_str(&text.clone());
            }
        };
        assert_eq!(confined(SMALL, growing), Err(Exceeded::Bytes));
        let walking = || (0..u64::MAX).map(|item| black_box(Box::new(item)).count_ones()).sum::<u32>();
        assert_eq!(confined(SMALL, walking), Err(Exceeded::Requests));
        let nesting = || deep(0);
        let many = Bounds { bytes: 1 << 40, requests: 1 << 40, ..SMALL };
        assert_eq!(confined(many, nesting), Err(Exceeded::Stack));
        let waiting = || std::thread::sleep(Duration::from_secs(3600));
        assert_eq!(confined(Bounds { time: Duration::from_millis(20), ..SMALL }, waiting), Err(Exceeded::Time));
        assert_eq!(confined(SMALL, || 7), Ok(7));
    }
}
