//! Compiles the programs of `bpf/` for the kernel.

fn main() {
    if let Err(error) = berth_bpf::compile_all() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
