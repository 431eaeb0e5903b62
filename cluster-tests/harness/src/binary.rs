//! Finds the binaries of node and router.
//!
//! `CLOUDKV_NODE_BIN` and `CLOUDKV_ROUTER_BIN` name them; otherwise it is the one that was built
//! beside this test, and if there is none, it is built once, in the profile of this test.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Returns the path of the node's binary.
///
/// # Panics
/// Panics if it doesn't exist and can't be built.
pub(super) fn node_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| find_or_build("cloudkv-node", "CLOUDKV_NODE_BIN"))
}

/// Returns the path of the router's binary.
///
/// # Panics
/// Panics if it doesn't exist and can't be built.
pub(super) fn router_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| find_or_build("cloudkv-router", "CLOUDKV_ROUTER_BIN"))
}

fn find_or_build(name: &str, variable: &str) -> PathBuf {
    if let Some(path) = env::var_os(variable).map(PathBuf::from) {
        assert!(
            path.is_file(),
            "{variable} names no file: {}",
            path.display()
        );
        return path;
    }
    let test = env::current_exe().expect("the path of this test");
    find_beside(&test, name).unwrap_or_else(|| build(&test, name))
}

/// Returns the binary in the nearest directory above `test` that holds one: that of the tests, of
/// the profile, or the target directory.
fn find_beside(test: &Path, name: &str) -> Option<PathBuf> {
    test.ancestors()
        .skip(1)
        .take(3)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

fn build(test: &Path, name: &str) -> PathBuf {
    // A test runs from `<target>/<profile>/deps/`.
    let profile_dir = test
        .ancestors()
        .nth(2)
        .expect("a test runs from a target directory");
    let target_dir = profile_dir
        .parent()
        .expect("a profile's directory is in a target directory");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--package",
            name,
            "--bin",
            name,
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(target_dir)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("run cargo build");
    assert!(status.success(), "cargo build -p {name} failed: {status}");
    profile_dir.join(name)
}
