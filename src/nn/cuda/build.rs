//! Compiles our kernels (`kernels/`), and the one that dfdx would compile at run time (see `compiler.rs`), to PTX. Does nothing
//! without the feature `cuda`.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

const KERNELS: &str = "cuda/kernels";

/// Source, options and result.
const FILES: [(&str, &[&str], &str); 3] = [
    ("cuda/reshape.cu", &[], "reshape.ptx"),
    ("cuda/kernels/kernels.cu", &[], "f32.ptx"),
    ("cuda/kernels/kernels.cu", &["-DBF16"], "bf16.ptx"),
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
    // The oldest GPUs that CUDA 11, 12 and 13 all support. Drivers compile the PTX for newer ones.
    let mut command = Command::new("nvcc");
    command.args(["--ptx", "--gpu-architecture=sm_75"]).args(options).args(["--output-directory", out, source]);
    let done = command.status();
    assert!(
        done.as_ref().is_ok_and(std::process::ExitStatus::success),
        "nvcc: {done:?}; `src/nn/cuda/with-toolkit.sh cargo build --release --features cuda` installs what is needed"
    );
    let written = Path::new(out).join(Path::new(source).with_extension("ptx").file_name().expect("a file"));
    fs::rename(written, Path::new(out).join(result)).expect("the compiler has written its result");
}
