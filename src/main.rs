//! The `ablate` program. Calls the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ablate::cli::main()
}
