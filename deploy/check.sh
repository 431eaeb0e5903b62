#!/usr/bin/env bash
# Checks the files of this folder with the tools that are installed, and reports those that are not.
# Changes nothing.
#
#   promtool           apt-get install prometheus
#   systemd-analyze    apt-get install systemd
#   docker compose     or docker-compose
#   the chart          pip install helm-python-sdk kubernetes-validate pyyaml
set -euo pipefail
cd "$(dirname "$0")"

have() { command -v "$1" >/dev/null 2>&1; }
skipped() { printf 'deploy: skipped: %s\n' "$*"; }

python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Runs promtool, and prints its output only if it fails.
run_promtool() {
    promtool "$@" >"$work/promtool" 2>&1 || {
        cat "$work/promtool"
        exit 1
    }
}

# Prints the queries of the dashboards as recording rules, which promtool can parse.
queries_as_rules() {
    "$python" - grafana/dashboards/*.json <<'PYTHON'
import json, sys

rules = [
    {"record": "checked", "expr": target["expr"].replace("$region", "eu")}
    for path in sys.argv[1:]
    for panel in json.load(open(path))["panels"]
    for target in panel.get("targets", [])
]
print(json.dumps({"groups": [{"name": "dashboards", "rules": rules}]}))
PYTHON
}

if have promtool; then
    run_promtool check rules prometheus/rules.yaml
    run_promtool test rules prometheus/rules_test.yaml prometheus/rules_hours_test.yaml
    run_promtool check config --syntax-only prometheus/prometheus.yaml
    if have "$python"; then
        queries_as_rules >"$work/queries.yaml"
        run_promtool check rules --lint=none "$work/queries.yaml"
    else
        skipped "the dashboards' queries (no $python)"
    fi
else
    skipped "the rules and their tests, the dashboards' queries (no promtool)"
fi

if have systemd-analyze; then
    for unit in systemd/*.service; do
        # The program may not be installed on this machine.
        sed 's,^ExecStart=.*,ExecStart=/bin/true,' "$unit" >"$work/$(basename "$unit")"
        systemd-analyze verify "$work/$(basename "$unit")"
        # Exposure of 0.0 to 10.0, here times ten: up to 2.0 is rated "OK".
        systemd-analyze security --offline=true --threshold=20 "$work/$(basename "$unit")" >/dev/null
    done
else
    skipped "the units (no systemd-analyze)"
fi

if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif have docker-compose; then
    compose=(docker-compose)
else
    compose=()
fi
if ((${#compose[@]})); then
    for file in compose*.yaml; do
        "${compose[@]}" -f "$file" config --quiet
    done
else
    skipped "the compose files (no docker compose)"
fi

if have "$python" && "$python" -c 'import helm_python, kubernetes_validate, yaml' 2>/dev/null; then
    "$python" helm/check.py
else
    skipped "the chart (no helm-python-sdk, kubernetes-validate and pyyaml in $python)"
fi

echo "deploy: checked"
