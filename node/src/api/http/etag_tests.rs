//! Parsing and formatting of entity tags.

use proptest::prelude::{any, prop_assert_eq, proptest};

use super::*;

fn tags(line: &str) -> Option<EntityTags> {
    EntityTags::parse(std::iter::once(line.as_bytes()))
}

fn version(time: u64, region: u32) -> Version {
    Version { time, region }
}

#[test]
fn versions_are_formatted() {
    assert_eq!(
        header(version(0x18_0000_0000_00ab, 7)),
        "\"00180000000000ab-7\""
    );
    assert_eq!(header(version(0, 0)), "\"0000000000000000-0\"");
    assert_eq!(
        header(version(u64::MAX, u32::MAX)),
        "\"ffffffffffffffff-4294967295\""
    );
    assert_eq!(text(version(1, 10)), "0000000000000001-10");
}

#[test]
fn lists_are_parsed() {
    assert_eq!(tags(" * "), Some(EntityTags::Any));
    let list = tags("\"0000000000000001-2\", W/\"0000000000000003-4\" ,,\"other\"").unwrap();
    assert_eq!(list.strong_versions().collect::<Vec<_>>(), [version(1, 2)]);
    assert_eq!(
        list.weak_versions().collect::<Vec<_>>(),
        [version(1, 2), version(3, 4)]
    );
}

#[test]
fn commas_inside_of_a_tag_belong_to_it() {
    let list = tags("\"a,b\", \"0000000000000001-2\"").unwrap();
    assert_eq!(list.strong_versions().count(), 1);
}

#[test]
fn several_lines_are_one_list() {
    let lines: [&[u8]; 2] = [b"\"x\"", b"\"0000000000000001-2\""];
    assert_eq!(
        EntityTags::parse(lines.into_iter())
            .unwrap()
            .strong_versions()
            .count(),
        1
    );
    let lines: [&[u8]; 2] = [b"*", b"\"x\""];
    assert_eq!(EntityTags::parse(lines.into_iter()), None);
}

#[test]
fn malformed_lists_are_refused() {
    for line in [
        "",
        " ",
        ",",
        "abc",
        "\"",
        "\"a",
        "a\"",
        "\"a\" \"b\"",
        "w/\"a\"",
        "*, \"a\"",
        "\"a b\"",
    ] {
        assert_eq!(tags(line), None, "{line}");
    }
}

#[test]
fn other_forms_match_nothing() {
    for opaque in [
        "",
        "0000000000000001-02",
        "0000000000000001-",
        "000000000000000A-1",
        "1-1",
        "0000000000000001-4294967296",
        "0000000000000001-+1",
        "+000000000000001-1",
        "0000000000000001",
    ] {
        assert_eq!(
            tags(&format!("\"{opaque}\""))
                .unwrap()
                .weak_versions()
                .count(),
            0,
            "{opaque}"
        );
    }
}

proptest! {
    #[test]
    fn formatted_versions_are_parsed(time in any::<u64>(), region in any::<u32>()) {
        let version = version(time, region);
        let list = EntityTags::parse(std::iter::once(header(version).as_bytes())).unwrap();
        prop_assert_eq!(list.strong_versions().collect::<Vec<_>>(), [version]);
        prop_assert_eq!(text(version), format!("{time:016x}-{region}"));
    }

    #[test]
    fn never_panics(lines in any::<Vec<Vec<u8>>>()) {
        let _ = EntityTags::parse(lines.iter().map(Vec::as_slice));
    }

    #[test]
    fn never_panics_on_lookalikes(line in "[W/\"*,a0-9 -]{0,40}") {
        let _ = tags(&line);
    }
}
