# shellcheck shell=bash
# Shared by the tests of scripts: a temporary folder, `work`, and checks that go on after a failure.
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

# check NAME COMMAND...: the command must succeed.
check() {
    checks=$((checks + 1))
    if ! "${@:2}"; then failed "$1"; fi
}

# check_not NAME COMMAND...: the command must fail.
check_not() {
    checks=$((checks + 1))
    if "${@:2}"; then failed "$1"; fi
}

# expect NAME VALUE EXPECTED: the two must be equal.
expect() {
    checks=$((checks + 1))
    if [[ $2 != "$3" ]]; then failed "$1: $2 instead of $3"; fi
}

failed() {
    failures=$((failures + 1))
    printf 'failed: %s\n' "$1"
    # Output of the last commands.
    tail -n 20 "$work"/out.* 2>/dev/null || true
}

# wait_for NAME COMMAND...: the command must succeed within 30 seconds; otherwise the test ends.
wait_for() {
    local tries
    for ((tries = 0; tries < 600; tries++)); do
        if "${@:2}"; then return; fi
        sleep 0.05
    done
    failed "timed out: $1"
    exit 1
}

# Prints the result and exits.
report() {
    printf '%s: %s checks, %s failed\n' "${0##*/}" "$checks" "$failures"
    exit $((failures > 0))
}
