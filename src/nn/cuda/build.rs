//! Compiles the kernel that dfdx would compile at run time (see `compiler.rs`). Does nothing without the feature `cuda`.

use std::env;
use std::process::Command;

const SOURCE: &str = "cuda/reshape.cu";

fn main() {
    println!("cargo:rerun-if-changed=cuda/build.rs");
    println!("cargo:rerun-if-changed={SOURCE}");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    // The oldest GPUs that CUDA 11, 12 and 13 all support. Drivers compile the PTX for newer ones.
    let arguments = ["--ptx", "--gpu-architecture=sm_75", "--output-directory", &out, SOURCE];
    let done = Command::new("nvcc").args(arguments).status();
    assert!(
        done.as_ref().is_ok_and(std::process::ExitStatus::success),
        "nvcc: {done:?}; `src/nn/cuda/with-toolkit.sh cargo build --release --features cuda` installs what is needed"
    );
}
