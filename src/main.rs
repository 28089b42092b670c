//! The `ablate` program: a thin shell over the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ablate::cli::main()
}
