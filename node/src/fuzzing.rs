//! Fuzz targets of this crate: `fuzz/` calls them, and the test below with the inputs in
//! `fuzz/corpus`.
//!
//! A panic is a finding. A target also checks that what is accepted means the same to another
//! decoder or survives a round trip, and that a refusal is the client's error and short.

pub use crate::api::fuzzing::{
    batch_lines, conditions, forms, list_queries, metadata, paths, queries, router_requests,
    watch_requests,
};
pub use crate::service::fuzzing::session_tokens;
pub use crate::store::fuzzing::log_records;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Name of a target, and its function.
    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 11] = [
        ("batch_lines", batch_lines),
        ("conditions", conditions),
        ("forms", forms),
        ("list_queries", list_queries),
        ("log_records", log_records),
        ("metadata", metadata),
        ("paths", paths),
        ("queries", queries),
        ("router_requests", router_requests),
        ("session_tokens", session_tokens),
        ("watch_requests", watch_requests),
    ];

    #[test]
    fn the_corpora_find_nothing() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for (name, target) in TARGETS {
            let folder = corpora.join(name);
            let files = std::fs::read_dir(&folder)
                .unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
            let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
            assert!(!files.is_empty(), "{} is empty", folder.display());
            for file in files {
                // Shown if the target panics.
                println!("{}", file.display());
                target(&std::fs::read(&file).unwrap());
            }
        }
    }
}
