#!/usr/bin/env bash
# Checks what is in this folder with the tools that are on the machine, and says which are not.
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

if have promtool; then
    promtool check rules prometheus/rules.yaml >/dev/null
    promtool test rules prometheus/rules_test.yaml >/dev/null
    promtool check config --syntax-only prometheus/prometheus.yaml >/dev/null
else
    skipped "the rules (no promtool)"
fi

if have systemd-analyze; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    for unit in systemd/*.service; do
        # The program may not be installed here.
        sed 's,^ExecStart=.*,ExecStart=/bin/true,' "$unit" >"$work/$(basename "$unit")"
        systemd-analyze verify "$work/$(basename "$unit")"
        # 10 is the most exposed; 2 and less is "OK".
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

python=${PYTHON:-python3}
if have "$python" && "$python" -c 'import helm_python, kubernetes_validate, yaml' 2>/dev/null; then
    "$python" helm/check.py
else
    skipped "the chart (no helm-python-sdk, kubernetes-validate and pyyaml in $python)"
fi

echo "deploy: checked"
