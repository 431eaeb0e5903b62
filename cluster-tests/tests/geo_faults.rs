//! Short runs of `cloudkv-faults regions`, each of a fixed seed.

use std::time::Duration;

use cloudkv_cluster_tests::faults::{RegionsOptions, run_regions};

async fn passes(options: &RegionsOptions) {
    let report = run_regions(options).await;
    println!("{report}");
    assert!(report.passed(), "{report}");
    assert!(report.checked > 300, "there was load: {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_regions_lose_nothing_and_agree_after_mixed_faults() {
    passes(&RegionsOptions::new(1, Duration::from_secs(30), 1)).await;
}
