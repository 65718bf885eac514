//! berth

fn main() {}
