//! The migrations are embedded by a macro that cannot see a new file appear; this makes cargo look.
fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
