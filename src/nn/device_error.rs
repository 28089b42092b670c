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

/// Converts an error of the driver, of cuBLAS, or of dfdx.
pub(crate) fn device_error<E: std::fmt::Display + std::fmt::Debug>(error: E) -> anyhow::Error {
    let status = format!("{error:?}");
    if status.contains("OUT_OF_MEMORY") || status.contains("ALLOC_FAILED") {
        return OutOfMemory(format!("the GPU is out of memory ({status})")).into();
    }
    anyhow::anyhow!("the device failed: {error} ({status})")
}

/// Adds advice to an error if the device is out of memory.
#[cfg(any(feature = "cuda", test))]
pub(crate) fn advise<R>(advice: &'static str, result: anyhow::Result<R>) -> anyhow::Result<R> {
    result.map_err(|error| if error.root_cause().is::<OutOfMemory>() { error.context(advice) } else { error })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A status in the form in which cudarc prints the errors of the driver and of cuBLAS.
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
            let error = advise::<()>("take less", Err(error)).unwrap_err();
            assert!(error.to_string() == "take less" && error.root_cause().is::<OutOfMemory>(), "{error:?}");
        }
    }

    #[test]
    fn other_failures_pass_through() {
        let error = advise::<()>("take less", Err(anyhow::anyhow!("another"))).unwrap_err();
        assert_eq!(error.to_string(), "another");
        let error = device_error(Driver("CUDA_ERROR_ILLEGAL_ADDRESS"));
        assert!(error.to_string().starts_with("the device failed: Driver(\"CUDA_ERROR_ILLEGAL_ADDRESS\")"), "{error}");
    }
}
