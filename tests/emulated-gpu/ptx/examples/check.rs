//! Lists the kernels of PTX files that are not supported: `cargo run -p emulated-ptx --example check -- FILE...`.

#![allow(clippy::print_stdout, reason = "it is a command")]

fn main() {
    let (mut supported, mut unsupported) = (0, 0);
    for path in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&path).expect("a file");
        let module = match ptx::Module::parse(&text) {
            Ok(module) => module,
            Err(error) => {
                println!("{path}: {error}");
                continue;
            }
        };
        for kernel in module.kernels.values() {
            match kernel.compile(&module) {
                Ok(_) => supported += 1,
                Err(error) => {
                    unsupported += 1;
                    println!("{path}: {error}");
                }
            }
        }
    }
    println!("{supported} kernels are supported, {unsupported} are not");
}
