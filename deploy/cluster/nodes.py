"""What runs on a node, and its configuration: control plane, kubelet, containerd, proxy, network policies.

A process manager is each node's first process: it starts the others again when they end, and one can be stopped
for a while (`supervisorctl`), which is how faults are made.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from deploy.cluster.credentials import Credentials

SWITCH = "10.89.0.1"
CLIENT = "10.89.0.2"  # stands outside of the cluster: who calls it from there
CONTROL = "control"
NODES = {CONTROL: "10.89.0.10", "worker-1": "10.89.0.11", "worker-2": "10.89.0.12"}
WORKERS = [name for name in NODES if name != CONTROL]
PODS = {name: f"10.244.{i}.0/24" for i, name in enumerate(NODES)}
SERVICES_RANGE, API_SERVICE, DNS_SERVICE = "10.96.0.0/16", "10.96.0.1", "10.96.0.10"
API = f"https://{NODES[CONTROL]}:6443"
API_NAMES = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", NODES[CONTROL], API_SERVICE, "127.0.0.1"]
PAUSE = "genmesh.dev/pause:1"
SOCKET = "/run/containerd/containerd.sock"
VOLUMES = 4  # local volumes a worker
STATE = "/run/state"  # where a node sees the cluster's folder, wherever that lies

# Before the process manager: own mounts, a /run and /var of the node's own, and the folder with all state in it.
FIRST = """
mount --make-rshared / && hostname {name}
mount -t tmpfs tmpfs /run && mkdir -p /run/netns /run/lock {seen} /run/var/upper /run/var/work
mount --bind {state} {seen}
mount -t overlay -o lowerdir=/var,upperdir=/run/var/upper,workdir=/run/var/work var /var
mkdir -p {state} && mount --bind {seen} {state} && mount --make-rshared /
mkdir -p /run/secrets/kubernetes.io/serviceaccount
cp {keys}/token {keys}/ca.crt /run/secrets/kubernetes.io/serviceaccount/
sysctl -q -w net.ipv4.ip_forward=1
{rules}
exec {manager} --nodaemon --configuration {configuration}
"""


# What the network-policy engine judges: new connections from and to pods, but not the node's own (probes). It makes
# such rules itself with nftables' "queue", which not every kernel has; these need only iptables. Where the engine is
# away nothing passes.
POLICY_QUEUE = 100
RULES = (
    "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    "-m owner --uid-owner 0 -j ACCEPT",
    f"-s 10.244.0.0/16 -j NFQUEUE --queue-num {POLICY_QUEUE}",
    f"-d 10.244.0.0/16 -j NFQUEUE --queue-num {POLICY_QUEUE}",
)


@dataclass(frozen=True)
class Place:
    """Where a cluster's state is, and the programs that run it."""

    state: Path  # the cluster's folder
    tools: Path  # the folder of built tools
    credentials: Credentials
    lost_after: int = 20  # seconds without a heartbeat, then a node counts as lost
    metrics: bool = True  # whether metrics-server runs

    def node(self, name: str) -> Path:
        return self.state / "nodes" / name

    def tool(self, folder: str, name: str) -> str:
        return str(self.tools / folder / "bin" / name)


def _json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))
    return path


def _containerd(place: Place, name: str) -> list[str]:
    folder = place.node(name)
    _json(
        folder / "cni" / "10-pods.conflist",
        {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                # Each pod has a link of its own, so that all its traffic passes the node's rules.
                {
                    "type": "ptp",
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": PODS[name]}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        },
    )
    configuration = folder / "containerd.toml"
    configuration.write_text(
        f"""version = 2
root = "{folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Lowering a process's OOM score needs CAP_SYS_RESOURCE, which containers and small machines often lack.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""
    )
    return ["containerd", "--config", str(configuration)]


def _kubelet(place: Place, name: str, pods_group: str) -> list[str]:
    folder, keys = place.node(name), place.credentials
    configuration = _json(
        folder / "kubelet.json",
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(keys.path("ca.crt"))},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(keys.path(f"{name}.crt")),
            "tlsPrivateKeyFile": str(keys.path(f"{name}.key")),
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": pods_group,
            "failCgroupV1": False,
            "clusterDNS": [DNS_SERVICE],
            "clusterDomain": "cluster.local",
            "resolvConf": str(folder / "resolv.conf"),
            "failSwapOn": False,
            "podLogsDir": str(folder / "pods-log"),
            "volumePluginDir": str(folder / "volume-plugins"),
            # Pods see a changed secret within this and half of it; a minute is the default.
            "syncFrequency": "15s",
            # The machine's disk is not the cluster's to judge.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "registerWithTaints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]
            if name == CONTROL
            else [],
        },
    )
    (folder / "resolv.conf").write_text("")
    return [
        place.tool("kubernetes", "kubelet"),
        f"--config={configuration}",
        f"--kubeconfig={keys.kubeconfig(name, API)}",
        # The same folder by its shortest name: the path of a socket has at most 107 characters.
        f"--root-dir={STATE}/nodes/{name}/kubelet",
        f"--hostname-override={name}",
        f"--node-ip={NODES[name]}",
        "--v=1",
    ]


def _proxy(place: Place, name: str) -> list[str]:
    configuration = _json(
        place.node(name) / "kube-proxy.json",
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": "10.244.0.0/16",
            "hostnameOverride": name,
            "clientConnection": {"kubeconfig": str(place.credentials.kubeconfig("kube-proxy", API))},
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
            "iptables": {"minSyncPeriod": "0s"},
        },
    )
    return [place.tool("kubernetes", "kube-proxy"), f"--config={configuration}"]


def _control_plane(place: Place) -> dict[str, list[str]]:
    folder, keys = place.node(CONTROL), place.credentials
    ca = keys.path("ca.crt")
    corefile = folder / "Corefile"
    addons = keys.kubeconfig("addons", API)
    corefile.write_text(
        f""".:53 {{
    errors
    health {NODES[CONTROL]}:8081
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {addons} genmesh
        ttl 5
    }}
    cache 5
}}
"""
    )
    etcd = "http://127.0.0.1:2379"
    programs = {
        "etcd": [
            "etcd",
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
            "--logger=zap",
            "--log-level=warn",
        ],
        "kube-apiserver": [
            place.tool("kubernetes", "kube-apiserver"),
            f"--etcd-servers={etcd}",
            f"--advertise-address={NODES[CONTROL]}",
            f"--service-cluster-ip-range={SERVICES_RANGE}",
            f"--client-ca-file={ca}",
            f"--tls-cert-file={keys.path('serving.crt')}",
            f"--tls-private-key-file={keys.path('serving.key')}",
            f"--kubelet-certificate-authority={ca}",
            f"--kubelet-client-certificate={keys.path('kube-apiserver.crt')}",
            f"--kubelet-client-key={keys.path('kube-apiserver.key')}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-signing-key-file={keys.path('service-accounts.key')}",
            f"--service-account-key-file={keys.path('service-accounts.key')}",
            f"--token-auth-file={keys.path('tokens.csv')}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--requestheader-client-ca-file={ca}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={keys.path('front-proxy.crt')}",
            f"--proxy-client-key-file={keys.path('front-proxy.key')}",
            # A node that is gone is taken for lost after half a minute, not five.
            "--default-not-ready-toleration-seconds=30",
            "--default-unreachable-toleration-seconds=30",
        ],
        "kube-controller-manager": [
            place.tool("kubernetes", "kube-controller-manager"),
            f"--kubeconfig={keys.kubeconfig('kube-controller-manager', API)}",
            f"--service-account-private-key-file={keys.path('service-accounts.key')}",
            f"--root-ca-file={ca}",
            "--use-service-account-credentials=true",
            f"--node-monitor-grace-period={place.lost_after}s",
            "--leader-elect=false",
            # As the load of a test changes, not as a day does.
            "--horizontal-pod-autoscaler-sync-period=5s",
            "--horizontal-pod-autoscaler-downscale-stabilization=60s",
            "--horizontal-pod-autoscaler-initial-readiness-delay=5s",
            "--horizontal-pod-autoscaler-cpu-initialization-period=30s",
        ],
        "kube-scheduler": [
            place.tool("kubernetes", "kube-scheduler"),
            f"--kubeconfig={keys.kubeconfig('kube-scheduler', API)}",
            "--leader-elect=false",
        ],
        "coredns": [place.tool("coredns", "coredns"), f"-conf={corefile}"],
    }
    if place.metrics:
        programs["metrics-server"] = [
            place.tool("metrics-server", "metrics-server"),
            f"--kubeconfig={addons}",
            f"--authentication-kubeconfig={addons}",
            f"--authorization-kubeconfig={addons}",
            f"--kubelet-certificate-authority={ca}",
            "--kubelet-preferred-address-types=InternalIP",
            "--metric-resolution=10s",
            "--kubelet-request-timeout=5s",
            "--secure-port=4443",
            "--cert-dir=/run/metrics-server",
        ]
    return programs


def configure(place: Place, name: str, pods_group: str) -> list[str]:
    """Write a node's configuration; the command of its first process, to be run in its own namespaces."""
    folder = place.node(name)
    logs = folder / "log"
    for made in (logs, folder / "pods-log", folder / "kubelet", *(folder / f"volume-{i}" for i in range(VOLUMES))):
        made.mkdir(parents=True, exist_ok=True)
    programs = {
        "containerd": _containerd(place, name),
        **(_control_plane(place) if name == CONTROL else {}),
        "kubelet": _kubelet(place, name, pods_group),
        "kube-proxy": _proxy(place, name),
        "network-policies": [
            # Made for a pod: it finds the API server and its token as one does (FIRST puts them there).
            *("env", f"KUBERNETES_SERVICE_HOST={NODES[CONTROL]}", "KUBERNETES_SERVICE_PORT=6443"),
            place.tool("network-policies", "network-policies"),
            f"--hostname-override={name}",
            f"--nfqueue-id={POLICY_QUEUE}",
            "--netfilter-bug-1766-fix=false",
            "--disable-nri",  # containerd 1.6 has none
        ],
    }
    lines = [
        "[supervisord]", f"logfile={logs}/manager.log", "logfile_maxbytes=0", "pidfile=/run/manager.pid", "user=root",
        "[unix_http_server]", "file=/run/manager.sock",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        "[supervisorctl]", "serverurl=unix:///run/manager.sock",
    ]  # fmt: skip
    for program, command in programs.items():
        lines += [
            f"[program:{program}]",
            "command=" + shlex.join(command).replace("%", "%%"),
            "autorestart=true", "startsecs=2", "startretries=1000", "stopwaitsecs=10",
            # containerd's shims stay when it is stopped, as on any node.
            f"killasgroup={'false' if program == 'containerd' else 'true'}", "redirect_stderr=true",
            f"stdout_logfile={logs}/{program}.log", "stdout_logfile_maxbytes=50MB", "stdout_logfile_backups=1",
        ]  # fmt: skip
    configuration = folder / "manager.conf"
    configuration.write_text("\n".join(lines) + "\n")
    first = FIRST.format(
        name=name,
        seen=STATE,
        state=shlex.quote(str(place.state)),
        manager=shlex.quote(str(Path(sys.executable).parent / "supervisord")),
        configuration=shlex.quote(str(configuration)),
        rules="\n".join(f"iptables --wait --table mangle --append POSTROUTING {rule}" for rule in RULES),
        keys=shlex.quote(str(place.credentials.folder)),
    )
    return ["bash", "-euc", first]


def addons(metrics: bool) -> str:
    """What is applied to the API once it answers, as YAML: roles, DNS and storage; ``metrics``: metrics-server too."""
    files = ["roles", "storage", *(["metrics"] if metrics else [])]
    from_files = [(Path(__file__).parent / "addons" / f"{name}.yaml").read_text() for name in files]
    made: list[dict[str, object]] = []
    services: list[tuple[str, str | None, list[tuple[str, int, int, str]]]] = [
        ("kube-dns", DNS_SERVICE, [("dns", 53, 53, "UDP"), ("dns-tcp", 53, 53, "TCP")])
    ]
    if metrics:
        services.append(("metrics-server", None, [("https", 443, 4443, "TCP")]))
    for name, address, ports in services:
        made += [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": "kube-system"},
                "spec": ({"clusterIP": address} if address else {})
                | {
                    "ports": [
                        {"name": n, "port": port, "targetPort": target, "protocol": protocol}
                        for n, port, target, protocol in ports
                    ]
                },
            },
            # No selector: it runs on the control plane, beside the API server.
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": name,
                    "namespace": "kube-system",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "endpoints": [{"addresses": [NODES[CONTROL]], "conditions": {"ready": True}}],
                "ports": [{"name": n, "port": target, "protocol": protocol} for n, _, target, protocol in ports],
            },
        ]
    return "---\n".join([*from_files, yaml.safe_dump_all(made)])


def volumes(place: Place, workers: Sequence[str]) -> str:
    """The workers' local volumes, as YAML."""
    return yaml.safe_dump_all(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{worker}-{i}"},
            "spec": {
                "capacity": {"storage": "20Gi"},
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "local",
                "persistentVolumeReclaimPolicy": "Retain",
                "local": {"path": str(place.node(worker) / f"volume-{i}")},
                "nodeAffinity": {
                    "required": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [
                                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [worker]}
                                ]
                            }
                        ]
                    }
                },
            },
        }
        for worker in workers
        for i in range(VOLUMES)
    )
