#!/usr/bin/env bash
# Tests scripts/modules on samples: what it must find, and what it must leave alone.
# shellcheck disable=SC2317 # functions are called by name
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/tests/lib.sh
. scripts/tests/lib.sh

modules() { scripts/modules --root "$work" >"$work/out.modules" 2>&1; }
finds() { grep -qsF -- "$1" "$work/out.modules"; }

cat >"$work/ARCHITECTURE.md" <<'MARKDOWN'
| `node/src` | contents |
| --- | --- |
| `app/` | all |
| `disk/`, `clock` | files, time |

| `router/src` | contents |
| --- | --- |
| `disk/` | another one |
MARKDOWN
mkdir -p "$work"/node/src/{app,disk}
touch "$work/node/Cargo.toml"
cat >"$work/node/src/lib.rs" <<'RUST'
mod app;
mod clock;
mod disk;
RUST
cat >"$work/node/src/clock.rs" <<'RUST'
//! Time; see [`crate::app`].
pub fn now() -> u64 { 1 } // not crate::app::run
pub const TEXT: &str = "crate::app::run";

#[cfg(test)]
mod tests {
    use crate::app::run;
}
RUST
cat >"$work/node/src/app/mod.rs" <<'RUST'
mod part;
mod whole;
pub use self::whole::run;
RUST
cat >"$work/node/src/app/whole.rs" <<'RUST'
use super::part::{self, Part as Piece};
pub fn run() -> Piece { part::new(crate::clock::now(), crate::disk::SIZE) }
RUST
cat >"$work/node/src/app/part.rs" <<'RUST'
pub struct Part(u64, u64);
pub fn new(a: u64, b: u64) -> Part { Part(a, b) }
RUST
echo 'pub const SIZE: u64 = 1;' >"$work/node/src/disk/mod.rs"
echo 'use crate::app::run;' >"$work/node/src/disk/tests.rs"
check "imports in order pass" modules
expect "problems of a good crate" "$(cat "$work/out.modules")" ""

echo 'pub fn again() { super::run(); }' >>"$work/node/src/app/part.rs"
check_not "a circle fails, also through a published name" modules
check "its first file is named" finds "    node/src/app/part.rs uses app::whole"
check "its second file is named" finds "    node/src/app/whole.rs uses app::part"

sed -i '$d' "$work/node/src/app/part.rs"
echo 'use crate::{app::run as start};' >>"$work/node/src/disk/mod.rs"
check_not "a use of a module above fails" modules
check "it is named" finds "node/src/disk/mod.rs uses app::whole, which is not below it"
echo 'use crate::clock::now;' >"$work/node/src/disk/mod.rs"
check_not "a use of a module in the same row fails" modules

echo 'pub const SIZE: u64 = 1;' >"$work/node/src/disk/mod.rs"
mkdir "$work/node/src/lost"
touch "$work/node/src/lost/mod.rs"
check_not "a module without a row fails" modules
check "it is named" finds "the table of node/src lacks lost"

report
