//! Short runs of `cloudkv-faults regions`, each with a fixed seed.

use std::time::Duration;

use cloudkv_faults::{RegionsOptions, run_regions};

async fn assert_passes(options: &RegionsOptions) {
    let report = run_regions(options).await;
    println!("{report}");
    assert!(report.has_passed(), "{report}");
    assert!(report.checked_calls > 300, "too little load: {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_regions_lose_nothing_and_converge_after_mixed_faults() {
    assert_passes(&RegionsOptions::new(1, Duration::from_secs(30), 1)).await;
}
