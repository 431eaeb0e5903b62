#!/usr/bin/env bash
# Tests scripts/tour without a node; cluster-tests/suite/tests/tour.rs runs it with one.
# shellcheck disable=SC2317 # functions are called by name
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/tests/lib.sh
. scripts/tests/lib.sh

tour() { timeout 60 scripts/tour "$@" >"$work/out.tour" 2>"$work/out.errors"; }

# Nothing listens on port 1.
check_not "the tour fails without a node" tour http://127.0.0.1:1
check "the message says what to do" grep -q 'no node answers at http://127.0.0.1:1: start one' "$work/out.errors"
expect "commands without a node" "$(wc -c <"$work/out.tour")" 0

# A fake curl that reaches a node twice, and then fails.
mkdir "$work/bin"
cat >"$work/bin/curl" <<'FAKE'
#!/usr/bin/env bash
echo call >>"${0%/*}/calls"
if (($(wc -l <"${0%/*}/calls") > 2)); then exit 7; fi
printf '{"message":"pong"}'
FAKE
chmod +x "$work/bin/curl"
PATH=$work/bin:$PATH
check_not "the tour ends when the node stops answering" tour http://127.0.0.1:1
check "the message says so" grep -q "the node at http://127.0.0.1:1 doesn't answer any more" "$work/out.errors"
check "commands are printed before answers" diff - <(head -n 4 "$work/out.tour") <<'EXPECTED'
$ API=http://127.0.0.1:1
$ curl -si "$API/ping"
{"message":"pong"}
$ curl -s "$API/openapi.json" | head -c 157
EXPECTED
expect "calls of curl" "$(wc -l <"$work/bin/calls")" 3

report
