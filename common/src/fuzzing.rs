//! Fuzz targets of this crate: `fuzz/` calls them, and the test below with the inputs in
//! `fuzz/corpus`.
//!
//! A panic is a finding. A target also checks that what is accepted survives a round trip, and
//! takes no more memory than it should.

pub use crate::transport::fuzzing::{router_frames, router_headers, router_stream};

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Name of a target, and its function.
    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 3] = [
        ("router_frames", router_frames),
        ("router_headers", router_headers),
        ("router_stream", router_stream),
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
