//! Tests of `admin metadata recover` and `admin shard recover`.

use super::*;
use crate::admin::recovery_report::RecoveryMember;
use crate::admin::tests::serve_port;
use crate::config::{AdminAction, RecoverAction};

fn recover(confirm: Option<&str>) -> RecoverAction {
    RecoverAction::Recover {
        confirm: confirm.map(str::to_owned),
        json: false,
    }
}

#[tokio::test]
async fn a_report_changes_nothing_and_says_how_to_confirm() {
    let port = serve_port(None).await;
    let shown = port.call(None, AdminAction::Metadata(recover(None))).await;
    let error = shown.unwrap_err();
    let right = error.starts_with(
        "nothing was changed. To recover, run: cloudkv-node admin --admin http://127.0.0.1:",
    ) && error
        .ends_with(" metadata recover --confirm 'recover the metadata without n2, n3'");
    assert!(right, "{error}");
    let refused = port.call(None, AdminAction::Shard(recover(None))).await;
    assert_eq!(
        refused.unwrap_err(),
        "nothing was changed: the metadata has no leader"
    );
}

#[tokio::test]
async fn a_confirmation_is_carried_out_only_if_it_is_that_of_the_report() {
    let port = serve_port(None).await;
    let right = Some("recover the metadata without n2, n3");
    let begun = port.call(None, AdminAction::Metadata(recover(right))).await;
    assert_eq!(
        begun.unwrap(),
        "node n1 stores the recovery, and stops: start it again, and it carries it out\n"
    );
    let wrong = AdminAction::Metadata(recover(Some("yes")));
    let error = port.call(None, wrong).await.unwrap_err();
    assert!(
        error.contains("400") && error.contains("recover the metadata without n2, n3"),
        "{error}"
    );
    let refused = port.call(None, AdminAction::Shard(recover(right))).await;
    let error = refused.unwrap_err();
    assert!(
        error.contains("409") && error.contains("the metadata has no leader"),
        "{error}"
    );
}

#[test]
fn a_report_is_described_for_people() {
    let last = |term, index| Some(LogPosition { term, index });
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let report = RecoveryReport {
        scope: RecoveryScope::Metadata,
        node: "n1".to_owned(),
        region: "us".to_owned(),
        rejoins: false,
        groups: vec![RecoveryGroup {
            group: "metadata".to_owned(),
            voters: names(&["n1", "n2", "n3"]),
            lost: names(&["n2", "n3"]),
            last: last(5, 812),
            committed: Some(810),
            others: vec![RecoveryMember {
                node: "n4".to_owned(),
                role: "learner".to_owned(),
                last: None,
            }],
            lead_by: Some("n2".to_owned()),
            refusal: Some("n4 has a later entry".to_owned()),
        }],
        lost: names(&["n2", "n3"]),
        unreachable: names(&["n5"]),
        losses: names(&["entries after 812 of term 5 that n2 and n3 alone have"]),
        next: names(&["this node becomes the only voter"]),
        refusal: None,
        confirmation: "recover the metadata without n2, n3".to_owned(),
    };
    let expected = "\
recovery by force at node n1, region us
metadata: voters n1, n2, n3; not reached: n2, n3
  last entry here: 812 of term 5, committed up to 810
  last entry of n4 (learner): none
  last led by n2
  not recovered here: n4 has a later entry
declared lost, and refused for ever: n2, n3
not reached, but not declared lost: n5
what may be lost:
  entries after 812 of term 5 that n2 and n3 alone have
what happens:
  this node becomes the only voter
";
    assert_eq!(describe(&report), expected);
}
