#!/usr/bin/env python3
"""Renders the chart with several sets of values and validates the results.

    pip install helm-python-sdk kubernetes-validate pyyaml
    deploy/helm/check.py

Helm's SDK renders the chart (wrapped by helm-python-sdk). The Kubernetes schemas are applied
strictly: an unknown field is an error.
"""

import pathlib
import sys

import helm_python
import kubernetes_validate
import yaml

CHART = pathlib.Path(__file__).parent / "cloudkv"
# Kinds without a schema in Kubernetes.
FOREIGN = {"PodMonitor", "ServiceMonitor"}
CASES = {
    "defaults": {},
    "first region": {"bootstrap": True, "settings": {"WRITE_BUFFER_MIB": "128"}},
    "all": {
        "join": ["node.example.com:7070"],
        "antiAffinity": "preferred",
        "tls": {"mode": "csi"},
        "storage": {"className": "local"},
        "networkPolicy": {"peers": ["10.0.0.0/8"]},
        "serviceMonitor": {"enabled": True},
        "router": {"enabled": True},
        "priorityClassName": "high",
        "podAnnotations": {"a": "b"},
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"disk": "local"},
        "tolerations": [{"key": "cloudkv", "operator": "Exists"}],
    },
}
# The oldest supported version of Kubernetes, and the latest known one.
VERSIONS = ["1.30.0", kubernetes_validate.latest_version()]


def documents(rendered):
    for path, text in sorted(rendered.items()):
        for document in yaml.safe_load_all(text):
            if document:
                yield path, document


def main():
    problems = []
    chart = helm_python.Chart.load(CHART)
    report = helm_python.lint(CHART, strict=True)
    problems += [f"lint: {message}" for message in report["messages"] if message["severity"] >= 2]
    problems += report["errors"]
    checked = 0
    for case, values in CASES.items():
        for path, document in documents(chart.render(values, name="eu", namespace="kv")):
            if document["kind"] in FOREIGN:
                continue
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                    checked += 1
                except kubernetes_validate.ValidationError as error:
                    problems.append(f"{case}: {path} against {version}: {error.message}")
    print("\n".join(problems) or f"chart: {checked} valid documents ({', '.join(VERSIONS)})")
    return bool(problems)


sys.exit(main())
