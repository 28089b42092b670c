//! Compiles the kernel that dfdx would compile when it first runs; see `compiler.rs`. Does nothing without the feature.

use std::env;
use std::process::Command;

const SOURCE: &str = "cuda/reshape.cu";

fn main() {
    println!("cargo:rerun-if-changed=cuda/build.rs");
    println!("cargo:rerun-if-changed={SOURCE}");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = env::var("OUT_DIR").expect("cargo says where outputs go");
    // The oldest GPUs that all of CUDA 11, 12 and 13 compile for; drivers translate it for newer ones.
    let arguments = ["--ptx", "--gpu-architecture=sm_75", "--output-directory", &out, SOURCE];
    let done = Command::new("nvcc").args(arguments).status();
    assert!(
        done.as_ref().is_ok_and(std::process::ExitStatus::success),
        "nvcc: {done:?}; `src/nn/cuda/with-toolkit.sh cargo build --release --features cuda` sees to all that is needed"
    );
}
