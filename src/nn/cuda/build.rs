//! Compiles our kernels (`kernels/`), and the one that dfdx would compile at run time (see `compiler.rs`), to PTX. Does nothing
//! without the feature `cuda`.

#![allow(clippy::disallowed_methods, reason = "cargo owns the folder that is written")]

use std::path::Path;
use std::process::Command;
use std::{env, fs};

const KERNELS: &str = "cuda/kernels";

/// The oldest GPUs that CUDA 11, 12 and 13 all support, and the oldest with bf16. Drivers compile the PTX for newer ones.
const TURING: &str = "--gpu-architecture=sm_75";
const AMPERE: &str = "--gpu-architecture=sm_80";

/// Source, options and result.
const FILES: [(&str, &[&str], &str); 3] = [
    ("cuda/reshape.cu", &[TURING], "reshape.ptx"),
    ("cuda/kernels/kernels.cu", &[TURING], "f32.ptx"),
    ("cuda/kernels/kernels.cu", &[AMPERE, "-DBF16"], "bf16.ptx"),
];

fn main() {
    println!("cargo:rerun-if-changed=cuda/build.rs");
    println!("cargo:rerun-if-changed=cuda/reshape.cu");
    println!("cargo:rerun-if-changed={KERNELS}");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    for (source, options, result) in FILES {
        compile(source, options, &out, result);
    }
}

fn compile(source: &str, options: &[&str], out: &str, result: &str) {
    let done = Command::new("nvcc").arg("--ptx").args(options).args(["--output-directory", out, source]).status();
    assert!(
        done.as_ref().is_ok_and(std::process::ExitStatus::success),
        "nvcc: {done:?}; `src/nn/cuda/with-toolkit.sh cargo build --release --features cuda` installs what is needed"
    );
    let written = Path::new(out).join(Path::new(source).with_extension("ptx").file_name().expect("a file"));
    fs::rename(written, Path::new(out).join(result)).expect("the compiler has written its result");
}
