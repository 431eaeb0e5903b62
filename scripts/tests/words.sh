#!/usr/bin/env bash
# Tests scripts/words on samples: what it must find, and what it must leave alone.
# shellcheck disable=SC2317 # functions are called by name
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/tests/lib.sh
. scripts/tests/lib.sh

words() { scripts/words "$@" >"$work/out.words" 2>&1; }
finds() { grep -qsF -- "$1: " "$work/out.words"; }
lines() { grep -cF -- "$work" "$work/out.words" || true; }

mkdir "$work/good" "$work/bad" "$work/openings"

# Words in comments, in texts and within longer names are no names; characters, lifetimes, raw
# texts and comments in texts end where they should.
cat >"$work/good/good.rs" <<'RUST'
//! Sends changes: nobody is to look here, or to tell.

const LOOKUP_INTERVAL: Duration = SECOND; // LOOK was its name
/* PAUSE, and Found */
struct Foundation<'a> {
    text: &'a str,
}

/// Returns whether a Lane is there; its LOOK doesn't matter.
fn outlook(lanes: &[Lanes], Together_: u8) -> char {
    let texts = ["look", r#"a "Whole" PAUSE"#, "\"tell", "// SOON", b"Told", "sooner or later"];
    tracing::warn!(delay = ?RETRY_BACKOFF, "join failed, retrying: node not joined yet");
    if texts.is_empty() { '"' } else { '\'' }
}
RUST
check "good code passes" words "$work/good"
expect "problems of good code" "$(lines)" 0

cat >"$work/bad/bad.rs" <<'RUST'
const LOOK: Duration = SECOND;
type Other = crate::rpc::Lane;
/// Sends a text.
fn tell(quote: char) {
    let Some(Found { at, .. }) = self.look('"') else { return };
    tracing::info!("levelling regions: later");
    let text = "a text
        of two lines"; let PATIENCE = 1;
    anyhow::bail!(r#"{node} is not joined"#)
}
RUST
check_not "bad code fails" words "$work/bad"
file=$work/bad/bad.rs
for problem in "1: LOOK" "2: Lane" "4: tell" "5: Found" "5: look" "6: : later" "8: PATIENCE" \
    "9: not joined"; do
    check "$problem is found" finds "$file:$problem"
done
expect "problems of bad code" "$(lines)" 8
check "the advice is printed" grep -q "bad.rs:2: Lane: StreamKind$" "$work/out.words"

check_not "a file can be named as well" words "$file"
expect "problems of a file" "$(lines)" 8

# Twenty comments, of which one may begin with such a word. Later lines of a comment don't count.
for number in {1..19}; do
    printf '/// Number %s.\n/// What it is.\nconst N%s: u8 = 0;\n\n' "$number" "$number"
done >"$work/openings/docs.rs"
printf '/// Whether it is.\nconst IS: bool = true;\n' >>"$work/openings/docs.rs"
check "one opening in twenty passes" words "$work/openings"
printf '\n/// How many.\nconst COUNT: u8 = 0;\n' >>"$work/openings/docs.rs"
check_not "more of them fail" words "$work/openings"
check "the first is named" finds "docs.rs:77: Whether"
check "the second is named" finds "docs.rs:80: How"
check "their share is printed" grep -q "^2 of 21 doc comments begin with such a word" "$work/out.words"

report
