//! Compiles the `.proto` files with `protox`, so that no `protoc` is needed on the machine.

use std::error::Error;

const FILES: [&str; 8] = [
    "cloudkv/v1/raft.proto",
    "cloudkv/v1/shard.proto",
    "cloudkv/v1/meta.proto",
    "cloudkv/v1/forward.proto",
    "cloudkv/v1/node.proto",
    "cloudkv/v1/topology.proto",
    "cloudkv/v1/user.proto",
    "cloudkv/v1/backup.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=cloudkv");
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure()
        // `Bytes` fields: values and log payloads are shared, not copied, on their way through the
        // node.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
