//! Errors of a device. A lack of memory is a type of its own, because a smaller batch can still succeed.

/// The device has too little memory for this batch.
#[derive(Debug)]
pub(crate) struct OutOfMemory(pub(crate) String);

impl std::fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OutOfMemory {}

/// Whether a status of the driver or of cuBLAS, as dfdx prints it, means out of memory.
fn is_out_of_memory(status: &str) -> bool {
    status.contains("OUT_OF_MEMORY") || status.contains("ALLOC_FAILED")
}

fn out_of_memory(status: &str) -> anyhow::Error {
    OutOfMemory(format!("the GPU is out of memory ({status})")).into()
}

/// Converts an error of dfdx.
pub(crate) fn device_error<E: std::fmt::Display + std::fmt::Debug>(error: E) -> anyhow::Error {
    let status = format!("{error:?}");
    if is_out_of_memory(&status) {
        return out_of_memory(&status);
    }
    anyhow::anyhow!("the device failed: {error} ({status})")
}

/// Runs `work`; if the device is out of memory, the error carries `advice`. dfdx panics instead of returning an error when
/// the copy of a shared tensor fails, so that panic is caught too. Any other panic continues.
#[cfg(any(feature = "cuda", test))]
pub(crate) fn catch_out_of_memory<R>(
    advice: &'static str,
    work: impl FnOnce() -> anyhow::Result<R>,
) -> anyhow::Result<R> {
    // A panic leaves only device memory behind, which is freed, and state that callers discard on an error.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let message = payload.downcast_ref::<String>().map(String::as_str);
        match message.or_else(|| payload.downcast_ref::<&str>().copied()) {
            Some(message) if is_out_of_memory(message) => Err(out_of_memory(message)),
            _ => std::panic::resume_unwind(payload),
        }
    });
    result.map_err(|error| if error.root_cause().is::<OutOfMemory>() { error.context(advice) } else { error })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A status in the form in which dfdx prints the errors of the driver and of cuBLAS.
    #[derive(Debug)]
    struct Driver(#[expect(dead_code, reason = "printed")] &'static str);

    impl std::fmt::Display for Driver {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{self:?}")
        }
    }

    #[test]
    fn out_of_memory_is_recognized() {
        for status in ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"] {
            let error = device_error(Driver(status));
            assert!(error.is::<OutOfMemory>(), "{error}");
            let panics = || panic!("called `Result::unwrap()` on an `Err` value: {status}");
            let error = catch_out_of_memory::<()>("take less", panics).unwrap_err();
            assert!(error.to_string() == "take less" && error.root_cause().is::<OutOfMemory>(), "{error:?}");
        }
    }

    #[test]
    fn other_failures_pass_through() {
        std::panic::catch_unwind(|| catch_out_of_memory::<()>("take less", || panic!("BUG: another"))).unwrap_err();
        let error = catch_out_of_memory::<()>("take less", || Err(anyhow::anyhow!("another"))).unwrap_err();
        assert_eq!(error.to_string(), "another");
        let error = device_error(Driver("CUDA_ERROR_ILLEGAL_ADDRESS"));
        assert!(error.to_string().starts_with("the device failed: Driver(\"CUDA_ERROR_ILLEGAL_ADDRESS\")"), "{error}");
    }
}
