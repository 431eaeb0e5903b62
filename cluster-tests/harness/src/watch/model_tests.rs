use serde_json::json;

use super::*;

fn version(time: u64) -> String {
    format!("{time:016x}-1")
}

fn fields(name: &str, time: u64) -> Value {
    json!({"name": name, "version": version(time), "size": 1, "content_type": "t",
        "expires_at": null, "modified_at": "m", "metadata": null})
}

fn event(name: &str, data: &Value) -> ServerSentEvent {
    ServerSentEvent {
        name: name.to_owned(),
        data: data.to_string(),
        last_event_id: "token".to_owned(),
        has_id: true,
    }
}

fn put(name: &str, time: u64) -> ServerSentEvent {
    event("put", &fields(name, time))
}

fn removed(event_name: &str, name: &str, time: u64) -> ServerSentEvent {
    event(event_name, &json!({"name": name, "version": version(time)}))
}

fn ready() -> ServerSentEvent {
    event("ready", &json!({"region": "eu"}))
}

fn reset() -> ServerSentEvent {
    event("reset", &json!({"reason": "too slow"}))
}

/// Returns a client with `initial=true` and these events behind it.
fn initial(events: &[ServerSentEvent]) -> WatchModel {
    let mut model = WatchModel::new(true, false, BucketCopy::new());
    model.connect(false);
    for event in events {
        assert_eq!(model.apply(event), Ok(ModelStep::Continue), "{event:?}");
    }
    model
}

fn names(model: &WatchModel) -> Vec<&str> {
    model.copy().keys().map(String::as_str).collect()
}

#[test]
fn events_change_the_copy() {
    let mut model = initial(&[put("a", 1), put("b", 2), put("c", 3)]);
    assert!(!model.is_ready());
    for event in [
        ready(),
        removed("delete", "a", 4),
        removed("expire", "b", 2),
        put("c", 5),
        put("a", 6),
    ] {
        model.apply(&event).unwrap();
    }
    assert!(model.is_ready());
    assert_eq!(names(&model), ["a", "c"]);
    assert_eq!(model.copy()["c"], fields("c", 5));
}

#[test]
fn events_that_come_again_change_nothing() {
    let told = [
        put("a", 1),
        put("b", 1),
        removed("delete", "b", 2),
        put("a", 3),
    ];
    let mut model = initial(&told);
    let copy = model.copy().clone();
    model.connect(true);
    for event in &told[..3] {
        model.apply(event).unwrap();
    }
    assert_eq!(*model.copy(), copy);
    model.apply(&removed("delete", "a", 2)).unwrap();
    assert_eq!(*model.copy(), copy, "a newer version stays");
}

#[test]
fn a_reset_discards_what_follows_again() {
    let mut model = initial(&[put("a", 1), put("b", 1), ready(), reset()]);
    assert!(model.copy().is_empty() && !model.is_ready());
    // Older than before: another region's, say.
    model.apply(&put("b", 1)).unwrap();
    model.apply(&ready()).unwrap();
    assert_eq!(names(&model), ["b"]);
    model.connect(false);
    assert!(model.copy().is_empty());
}

#[test]
fn without_initial_the_bucket_is_listed() {
    let mut model = WatchModel::new(false, false, BucketCopy::new());
    model.connect(false);
    assert!(model.clone().apply(&put("a", 1)).is_err(), "before ready");
    assert_eq!(model.apply(&ready()), Ok(ModelStep::List));
    let listed = BucketCopy::from([("a".to_owned(), fields("a", 5))]);
    model.load(listed.clone());
    // Told already, or just before the list.
    model.apply(&put("a", 4)).unwrap();
    assert_eq!(*model.copy(), listed);
    model.apply(&removed("delete", "a", 6)).unwrap();
    assert!(model.copy().is_empty());
    assert_eq!(model.apply(&reset()), Ok(ModelStep::List));
    model.load(listed.clone());
    assert_eq!(model.apply(&ready()), Ok(ModelStep::Continue));
    model.connect(true);
    assert_eq!(model.apply(&ready()), Ok(ModelStep::Continue));
    assert_eq!(*model.copy(), listed);
}

#[test]
fn the_order_of_versions_is_checked() {
    let refuses = |events: &[ServerSentEvent]| {
        let (last, before) = events.split_last().unwrap();
        initial(before).apply(last).is_err()
    };
    assert!(refuses(&[put("a", 2), put("a", 1)]));
    assert!(refuses(&[put("a", 2), put("a", 2)]));
    assert!(refuses(&[put("a", 2), removed("delete", "a", 1)]));
    assert!(refuses(&[removed("delete", "a", 2), put("a", 2)]));
    assert!(!refuses(&[put("a", 2), put("b", 1)]));
    assert!(!refuses(&[put("a", 2), reset(), put("a", 1)]));
    assert!(!refuses(&[put("a", 2), removed("expire", "a", 2)]));
}

#[test]
fn values_come_if_they_were_requested() {
    let mut with_value = fields("a", 1);
    with_value["value"] = json!("v");
    let with_value = event("put", &with_value);
    assert!(initial(&[]).apply(&with_value).is_err());
    let mut model = WatchModel::new(true, true, BucketCopy::new());
    model.connect(false);
    assert!(model.apply(&put("b", 1)).is_err());
    assert_eq!(model.apply(&with_value), Ok(ModelStep::Continue));
}
