# shellcheck shell=bash
# What tests of scripts share: a folder for them, `work`, and checks that go on after a failure.
work=$(mktemp -d)
work=$(realpath "$work")
checks=0
failures=0

tidy() {
    # shellcheck disable=SC2046 # one word for each process
    kill $(jobs -p) 2>/dev/null || true
    rm -rf "$work"
}
trap tidy EXIT

# check WHAT COMMAND...: the command succeeds.
check() {
    checks=$((checks + 1))
    if ! "${@:2}"; then failed "$1"; fi
}

# check_not WHAT COMMAND...: the command fails.
check_not() {
    checks=$((checks + 1))
    if "${@:2}"; then failed "$1"; fi
}

# expect WHAT VALUE EXPECTED
expect() {
    checks=$((checks + 1))
    if [[ $2 != "$3" ]]; then failed "$1: $2 instead of $3"; fi
}

failed() {
    failures=$((failures + 1))
    printf 'failed: %s\n' "$1"
    # What the last commands said.
    tail -n 20 "$work"/out.* 2>/dev/null || true
}

# wait_for WHAT COMMAND...: the command succeeds before long; there is no going on without it.
wait_for() {
    local tries
    for ((tries = 0; tries < 600; tries++)); do
        if "${@:2}"; then return; fi
        sleep 0.05
    done
    failed "never came: $1"
    exit 1
}

# Says how it went, and ends.
report() {
    printf '%s: %s checks, %s failed\n' "${0##*/}" "$checks" "$failures"
    exit $((failures > 0))
}
