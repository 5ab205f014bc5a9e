"""An external-metrics API over the cluster's Prometheus, as a metrics adapter serves it: what HPAs of the chart ask.

    python -m tests.cluster.external_metrics CERTIFICATE KEY    (beside the cluster; QUERIES as JSON on standard input)

KEDA serves the same API for its ScaledObjects, whose queries are the ones given here.
"""

from __future__ import annotations

import json
import math
import ssl
import sys
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from deploy.cluster.nodes import CLIENT
from tests.cluster.forwarded import prometheus

PORT = 6443
GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"


def objects() -> list[dict[str, Any]]:
    """What makes the API server pass that API on to here."""
    labels = {"kubernetes.io/service-name": "external-metrics"}
    service = {"name": "external-metrics", "namespace": "kube-system"}
    reading = {"apiGroups": [GROUP], "resources": ["*"], "verbs": ["get", "list", "watch"]}
    controller = {"kind": "ServiceAccount", "name": "horizontal-pod-autoscaler", "namespace": "kube-system"}
    rbac = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": service,
         "spec": {"ports": [{"port": 443, "targetPort": PORT}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": service | {"labels": labels},
         "addressType": "IPv4", "endpoints": [{"addresses": [CLIENT], "conditions": {"ready": True}}],
         "ports": [{"name": "", "port": PORT, "protocol": "TCP"}]},
        {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": f"{VERSION}.{GROUP}"},
         "spec": {"group": GROUP, "version": VERSION, "groupPriorityMinimum": 100, "versionPriority": 100,
                  "insecureSkipTLSVerify": True,
                  "service": {"name": "external-metrics", "namespace": "kube-system", "port": 443}}},
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": "external-metrics"}, "rules": [reading]},
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "external-metrics"},
         "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "external-metrics"}, "subjects": [controller]},
    ]  # fmt: skip


def value(api: str, query: str) -> float:
    with urllib.request.urlopen(f"{api}query?query={urllib.parse.quote(query)}", timeout=5) as answer:
        (sample,) = json.load(answer)["data"]["result"]
    found = float(sample["value"][1])
    return 0.0 if math.isnan(found) else found


def serve(api: str, queries: dict[str, str], certificate: str, key: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = urllib.parse.urlparse(self.path).path.rpartition("/")[2]
            if name in queries:
                now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                milli = f"{round(value(api, queries[name]) * 1000)}m"
                item = {"metricName": name, "metricLabels": {}, "timestamp": now, "value": milli}
                found = {
                    "kind": "ExternalMetricValueList",
                    "apiVersion": f"{GROUP}/{VERSION}",
                    "metadata": {},
                    "items": [item],
                }
            else:
                named = [
                    {
                        "name": n,
                        "singularName": "",
                        "namespaced": True,
                        "kind": "ExternalMetricValueList",
                        "verbs": ["get"],
                    }
                    for n in queries
                ]
                found = {
                    "kind": "APIResourceList",
                    "apiVersion": "v1",
                    "groupVersion": f"{GROUP}/{VERSION}",
                    "resources": named,
                }
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, form: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer((CLIENT, PORT), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


def main() -> None:
    with prometheus() as api:
        print("begun", flush=True)
        serve(api, json.load(sys.stdin), *sys.argv[1:3])


if __name__ == "__main__":
    main()
