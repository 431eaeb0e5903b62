//! Deleting a bucket of a region of three nodes: each key that was acknowledged before counts,
//! whichever nodes have listed the bucket, taken the key and are asked.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_test_harness::{ApiClient, Bucket, HttpResponse, RoutedRegion};

async fn delete(api: &ApiClient, bucket: &Bucket, confirm: u64) -> HttpResponse {
    let path = format!("{}?confirm={confirm}", bucket.path());
    api.delete(&path).api_key(&bucket.account).await
}

#[tokio::test]
async fn a_zero_that_was_listed_before_the_first_key_deletes_nothing() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    for round in 0..12 {
        let [creating, writing, deleting] = [0, 1, 2].map(|step| &clients[(round + step) % 4]);
        let bucket = creating.create_bucket().await;
        for client in &clients {
            assert_eq!(client.bucket_summary(&bucket).await["estimated_keys"], 0);
        }
        let path = bucket.key_path(&format!("k{round}"));
        writing.put(&path, "v").await.assert_status(200);
        let refused = delete(deleting, &bucket, 0).await;
        refused.assert_error(409, "confirm_mismatch");
        assert_eq!(refused.json()["keys"], 1, "round {round}");
        assert_eq!(deleting.get(&path).await.assert_status(200).text(), "v");
        let confirm = if round % 2 == 0 {
            writing.delete(&path).await.assert_status(200);
            0
        } else {
            1
        };
        delete(deleting, &bucket, confirm).await.assert_status(200);
        let get = creating.get(&path).await;
        get.assert_error(404, "unknown_bucket");
    }
}
