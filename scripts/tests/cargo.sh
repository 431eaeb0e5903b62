#!/usr/bin/env bash
# Tests scripts/cargo with a fake cargo and a fake compiler: in seconds, and with all failures that
# a real compilation of RocksDB can have.
# shellcheck disable=SC2317 # functions are called by name
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/tests/lib.sh
. scripts/tests/lib.sh

clone=$work/clone
calls=$work/calls # one line per call of cargo
mkdir -p "$clone/scripts" "$work/bin" "$work/bin-without-flock"
cp "${SCRIPT:-scripts/cargo}" "$clone/scripts/cargo"
cp Cargo.toml Cargo.lock "$clone/"

# A compilation creates 34 files, waits until $work/finish exists, and ends with the result in it:
# `ok`, `fail` (the compiler fails) or `nothing` (cargo succeeds without a library).
cat >"$work/bin/cargo" <<'FAKE'
#!/usr/bin/env bash
set -euo pipefail
work=$(dirname "$(dirname "$(realpath "$0")")")
echo "$*" >>"$work/calls"
# Also ends when the test has ended and removed its folder.
wait_to_finish() { until [[ -e $work/finish || ! -d $work ]]; do sleep 0.05; done; }
if [[ $* != *librocksdb-sys* ]]; then
    echo "with ${ROCKSDB_LIB_DIR:-no library}" >>"$work/calls"
    if [[ -e $work/bar ]]; then
        printf '    Blocking waiting for file lock\n' >&2
        until [[ -e $work/unlock || ! -d $work ]]; do sleep 0.05; done
        printf '   Compiling one v1.0.0\n    Building [==>   ] 57/243: one, two(build)  \r' >&2
        wait_to_finish
        printf '    Building [=====>] 242/243: two  \r   Compiling two v1.0.0\nerror: no luck\n' >&2
        exit 101
    fi
    exit
fi
while [[ $1 != --target-dir ]]; do shift; done
out=$2/release/build/librocksdb-sys-0123/out
mkdir -p "$out"
for number in {1..34}; do echo "object" >"$out/$number.o"; done
wait_to_finish
case $(<"$work/finish") in
ok) cat "$out"/*.o >"$out/librocksdb.a" ;;
nothing) ;;
*)
    echo "error: failed to run custom build command" >&2
    exit 101
    ;;
esac
FAKE
printf '#!/bin/sh\necho c++ 1.2.3\n' >"$work/bin/c++"
chmod +x "$work/bin/cargo" "$work/bin/c++"
for tool in bash cat cksum cut dirname find getconf grep mkdir mktemp mv realpath rm sed sh sleep wc; do
    ln -s "$(command -v "$tool")" "$work/bin-without-flock/$tool"
done
unset ROCKSDB_LIB_DIR ROCKSDB_STATIC CARGO_TARGET_DIR
export CLOUDKV_PROGRESS_SECONDS=1
PATH=$work/bin:$PATH

# Resets the clone to one without compiled files; compilations end with the given result, or wait.
begin() {
    rm -rf "$clone/target" "$work/finish" "$work/bar" "$calls" "$work"/out.*
    if [[ $# -gt 0 ]]; then echo "$1" >"$work/finish"; fi
    : >"$calls"
}

build() { "$clone/scripts/cargo" build --locked >"$work/out.$1" 2>&1; }
# Runs the script itself in the background, without a shell around it.
start_build() { "$clone/scripts/cargo" build --locked >"$work/out.$1" 2>&1 & }
compilations() { grep -c librocksdb-sys "$calls" || true; }
# Returns whether that many compilations have begun.
begun() { (($(compilations) == $1)); }
libraries() { find "$clone/target/rocksdb" -name librocksdb.a | wc -l; }
leftovers() { find "$clone/target/rocksdb" -maxdepth 1 -name 'build*' | wc -l; }
has() { grep -qs -- "$2" "$work/out.$1"; }

begin ok
check "a build with a new library succeeds" build 1
check "and uses the library" grep -q "^with $clone/target/rocksdb/[0-9]*$" "$calls"
check "a second one compiles nothing" build 1
expect "compilations" "$(compilations)" 1
expect "leftover folders" "$(leftovers)" 0

for how in fail nothing; do
    begin $how
    check_not "a compilation that ends with '$how' is noticed" build 1
    check "and reported" has 1 "^RocksDB could not be compiled"
    check_not "nothing else is built with '$how'" grep -q '^with' "$calls"
    expect "libraries after '$how'" "$(libraries)" 0
    expect "leftover folders after '$how'" "$(leftovers)" 0
    echo ok >"$work/finish"
    check "the next one compiles after '$how'" build 1
done

begin
start_build 1
first=$!
wait_for "the first compilation has begun" begun 1
wait_for "its progress" has 1 "^RocksDB: 34 of about 340 files compiled, .* s so far, about .* left$"
start_build 2
second=$!
wait_for "the second build reports that it waits" has 2 "^RocksDB: another build of this clone"
expect "compilations of two builds at once" "$(compilations)" 1
echo ok >"$work/finish"
check "the first of two builds succeeds" wait $first
check "the second of two builds succeeds" wait $second
expect "compilations of two builds at once, in the end" "$(compilations)" 1

begin
start_build 1
first=$!
wait_for "the compilation is under way" has 1 "^RocksDB: 34 of"
{ kill -9 $first && wait $first; } 2>/dev/null || true
start_build 2
second=$!
wait_for "the next build compiles" begun 2
echo ok >"$work/finish"
check "a build succeeds after one that was killed" wait $second
expect "leftover folders after it" "$(leftovers)" 0

begin
start_without_flock() { PATH=$work/bin:$work/bin-without-flock start_build "$1"; }
start_without_flock 1
first=$!
start_without_flock 2
second=$!
wait_for "both compilations have begun" begun 2
echo ok >"$work/finish"
check "without locks the first of two builds succeeds" wait $first
check "without locks the second of two builds succeeds" wait $second
expect "libraries without locks" "$(libraries)" 1

begin ok
build 1
rm "$work/finish"
touch "$work/bar"
start_build 1
first=$!
wait_for "a line before the first progress bar" has 1 "^    Blocking waiting for file lock$"
touch "$work/unlock"
wait_for "cargo's progress bar as a line" has 1 "^building: 57 of 243 steps, now one, two(build); .* s so far$"
touch "$work/finish"
check_not "cargo's error is the script's" wait $first
check "cargo's lines are passed on" has 1 "^   Compiling two v1.0.0$"
check "the last one, too" has 1 "^error: no luck$"
check_not "the bar itself is not" has 1 "\["

report
