//! Runs a function for many items on several threads that wait for the network.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Result;

/// Calls `run` for each item, on up to `threads` threads. After the first error no further item is started, and the first error is
/// returned.
pub(crate) fn try_map<I: Sync, T: Send>(
    items: &[I],
    threads: usize,
    run: impl Fn(&I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let failed = AtomicBool::new(false);
    let results = map(items, threads, |item| {
        if failed.load(Ordering::Relaxed) {
            return None;
        }
        let result = run(item);
        failed.fetch_or(result.is_err(), Ordering::Relaxed);
        Some(result)
    });
    // Without an error every item was run.
    results.into_iter().flatten().collect()
}

/// Calls `run` for each item, on up to `threads` threads.
pub(crate) fn map<I: Sync, T: Send>(items: &[I], threads: usize, run: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let results: Vec<Mutex<Option<T>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| {
                while let Some((item, result)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    items.get(at).zip(results.get(at))
                } {
                    let output = run(item);
                    *result.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(output);
                }
            });
        }
    });
    let take = |result: Mutex<Option<T>>| {
        let output = result.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        output.unwrap_or_else(|| panic!("BUG: an item was not run"))
    };
    results.into_iter().map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn results_are_in_the_order_of_the_items() {
        let items: Vec<usize> = (0..100).collect();
        assert_eq!(map(&items, 8, |item| item * 2), items.iter().map(|item| item * 2).collect::<Vec<_>>());
        let error = try_map(&items, 8, |item| if *item == 7 { bail!("seven") } else { Ok(()) }).unwrap_err();
        assert_eq!(error.to_string(), "seven");
        assert_eq!(try_map(&items, 8, |item| Ok(*item)).unwrap(), items);
    }
}
