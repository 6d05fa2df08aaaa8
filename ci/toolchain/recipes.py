"""Recipes of the assembled images: what each contains and why."""

from __future__ import annotations

import json
from pathlib import Path

from ci.toolchain.images import Recipe

ENGINE_PACKAGES = (
    "ca-certificates",
    "containernetworking-plugins",
    "dnsmasq-base",
    "e2fsprogs",
    "fuse3",
    "git",
    "iptables",
    "nftables",
    "openssh-client",
    "pigz",
    "runc",
    "tini",
    "xz-utils",
)

NODE_PACKAGES = (
    "ca-certificates",
    "conntrack",
    "containernetworking-plugins",
    "curl",
    "dbus",
    "e2fsprogs",
    "ethtool",
    "iproute2",
    "iptables",
    "jq",
    "kmod",
    "libseccomp2",
    "mount",
    "nftables",
    "pigz",
    "procps",
    "runc",
    "systemd",
)

CNI = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.244.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
"""Pod network of a one-node cluster, instead of kindnetd, which is no Go module."""

STORAGE_CLASS = """\
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: standard
provisioner: kubernetes.io/no-provisioner
"""
"""kind applies this manifest; its provisioner is no Go module, and nothing here claims volumes."""


def python(base: str) -> Recipe:
    """Stands for ``python:3.11-slim``: ``python`` and ``pip`` in /usr/local/bin, pip unmanaged."""
    return Recipe(
        name="python",
        base=base,
        packages=("ca-certificates", "python3", "python3-pip"),
        script="""
rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
ln -sf /usr/bin/python3 /usr/local/bin/python3
ln -sf /usr/bin/python3 /usr/local/bin/python
ln -sf /usr/bin/pip3 /usr/local/bin/pip
ln -sf /usr/bin/pip3 /usr/local/bin/pip3
""",
        changes=(
            "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
            "ENV LANG=C.UTF-8",
            "ENTRYPOINT []",  # a commit keeps the assembling container's own
            'CMD ["python3"]',
        ),
    )


def registry(base: str) -> Recipe:
    """The OCI distribution registry, plain HTTP on 5000, its data in a volume."""
    return Recipe(
        name="registry",
        base=base,
        packages=("docker-registry",),
        script="""
cat > /etc/docker/registry/config.yml <<'CONFIG'
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: /var/lib/registry}
  delete: {enabled: true}
http: {addr: ":5000"}
CONFIG
""",
        changes=(
            "EXPOSE 5000",
            "VOLUME /var/lib/registry",
            'ENTRYPOINT ["docker-registry", "serve", "/etc/docker/registry/config.yml"]',
        ),
    )


def postgres(base: str) -> Recipe:
    """Stands for ``postgres``: the official image's three variables and its data folder."""
    return Recipe(
        name="postgres",
        base=base,
        packages=("postgresql-15",),
        script=r"""
rm -rf /var/lib/postgresql/15/main
# The compiler for long queries: half of the image, which every new cluster unpacks.
cd /usr/lib/postgresql/15/lib && rm -rf bitcode llvmjit*
rm -f /usr/lib/*/libLLVM* /usr/lib/*/libz3.so*
install -d -o postgres -g postgres -m 0700 /var/lib/postgresql/data
cat > /usr/local/bin/entrypoint <<'ENTRY'
#!/bin/bash
# Makes the database on first start, then becomes the server.
set -euo pipefail
export PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=${PGDATA:-/var/lib/postgresql/data}
: "${POSTGRES_PASSWORD:?POSTGRES_PASSWORD has to be set}"
user=${POSTGRES_USER:-postgres} database=${POSTGRES_DB:-${POSTGRES_USER:-postgres}}
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --username="$user" --pwfile=<(printf %s "$POSTGRES_PASSWORD") --auth-host=scram-sha-256 \
    --auth-local=trust --no-sync >/dev/null
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  if [ "$database" != postgres ]; then
    echo "CREATE DATABASE \"$database\"" | postgres --single -j postgres >/dev/null
  fi
fi
exec postgres -c jit=off -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"
ENTRY
chmod 0755 /usr/local/bin/entrypoint
""",
        stop_signal="SIGINT",
        changes=(
            "ENV LANG=C.UTF-8",  # else initdb takes SQL_ASCII, and clients are given bytes
            "USER postgres",
            "EXPOSE 5432",
            'ENTRYPOINT ["/usr/local/bin/entrypoint"]',
        ),
    )


def redis(base: str) -> Recipe:
    """Stands for ``redis``: the server on every address, without persistence."""
    return Recipe(
        name="redis",
        base=base,
        packages=("redis-server",),
        changes=(
            "USER redis",
            "EXPOSE 6379",
            'ENTRYPOINT ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", '
            '"--save", "", "--dir", "/tmp"]',
        ),
    )


def kube_proxy_base(base: str) -> Recipe:
    """kube-proxy calls iptables and conntrack; the other components need nothing beside them."""
    return Recipe(
        name="kube-proxy-base",
        base=base,
        packages=("conntrack", "iptables", "kmod", "nftables"),
    )


def engine_base(base: str) -> Recipe:
    """What the Dagger engine calls, before the engine itself is built."""
    return Recipe(
        name="engine-base",
        base=base,
        packages=ENGINE_PACKAGES,
        script="""
mkdir -p /opt/cni/bin
cp /usr/lib/cni/* /opt/cni/bin/
ln -sf /usr/sbin/xtables-legacy-multi /usr/bin/xtables-legacy-multi
ln -sf /usr/sbin/runc /usr/local/bin/runc
ln -sf /usr/bin/tini /usr/local/bin/tini
""",
    )


def engine(base: str, binaries: Path) -> Recipe:
    """The Dagger engine. Its state is a volume; the binaries' folder name holds their hash."""
    return Recipe(
        name="dagger-engine",
        base=base,
        inputs=(binaries.name,),
        mounts=((binaries, "/toolchain"),),
        script="""
install -m 0755 /toolchain/engine /usr/local/bin/dagger-engine
install -m 0755 /toolchain/dagger /usr/local/bin/dagger
install -m 0755 /toolchain/init /usr/local/bin/dagger-init
install -m 0755 /toolchain/dnsname /opt/cni/bin/dnsname
install -m 0755 /toolchain/dialstdio /usr/local/bin/dial-stdio
ln -sf /usr/local/bin/dial-stdio /usr/bin/buildctl
mkdir -p /usr/local/share/dagger/content /var/lib/dagger /run/dagger
""",
        changes=(
            "VOLUME /var/lib/dagger",
            "ENV DAGGER_NO_NAG=1",
            "ENV DO_NOT_TRACK=1",
            'ENTRYPOINT ["/usr/local/bin/tini", "--", "/usr/local/bin/dagger-engine"]',
        ),
    )


def node_base(base: str) -> Recipe:
    """systemd and what kubelet and containerd call, before Kubernetes itself is built."""
    return Recipe(
        name="node-base",
        base=base,
        packages=NODE_PACKAGES,
        script=r"""
find /lib/systemd/system/sysinit.target.wants/ -name systemd-tmpfiles-setup.service -delete
rm -f /lib/systemd/system/multi-user.target.wants/* /etc/systemd/system/*.wants/*
rm -f /lib/systemd/system/local-fs.target.wants/*
rm -f /lib/systemd/system/sockets.target.wants/*udev*
rm -f /lib/systemd/system/sockets.target.wants/*initctl*
rm -f /lib/systemd/system/basic.target.wants/*
echo ReadKMsg=no >> /etc/systemd/journald.conf
ln -sf /usr/lib/systemd/systemd /sbin/init
mkdir -p /opt/cni/bin /etc/cni/net.d /etc/kubernetes/manifests
cp /usr/lib/cni/* /opt/cni/bin/
""",
    )


def node(
    base: str,
    binaries: Path,
    kind_module: Path,
    components: Path,
    *,
    kubernetes: str,
    pause: str,
    restrict_oom: bool,
) -> Recipe:
    """The kind node image: kind's own files, our binaries, and the components' images imported.

    ``components`` is a folder with ``images.tar`` (docker save). ``pause`` is the sandbox image
    that kubeadm names. ``restrict_oom`` for hosts that may not lower an OOM score
    (no CAP_SYS_RESOURCE).
    """
    binaries_used = "kubeadm kubelet kubectl containerd containerd-shim-runc-v2 ctr"
    oom = "true" if restrict_oom else "false"
    return Recipe(
        name="kind-node",
        base=base,
        inputs=(
            binaries.name,
            components.name,
            kind_module.name,
            kubernetes,
            pause,
            json.dumps(CNI),
            STORAGE_CLASS,
        ),
        mounts=(
            (binaries, "/toolchain"),
            (kind_module / "images" / "base" / "files", "/kind-files"),
            (components, "/components"),
        ),
        seccomp=False,
        script=f"""
cp -r /kind-files/. /
chmod -R u+rwX,go+rX /kind /etc/containerd /etc/systemd /etc/default /etc/sysctl.d /usr/local/bin
chmod 0755 /kind /kind/bin /kind/bin/* /usr/local/bin/*
for name in {binaries_used}; do
  case $name in kube*) to=/usr/bin ;; *) to=/usr/local/bin ;; esac
  install -m 0755 /toolchain/$name $to/$name
done
ln -sf /usr/sbin/runc /usr/local/sbin/runc
ctr oci spec | jq '
  .hooks.createContainer = [{{"path": "/kind/bin/mount-product-files.sh"}}]
  | del(.process.rlimits)' > /etc/containerd/cri-base.json
sed -i 's|sandbox_image = .*|sandbox_image = "{pause}"|' /etc/containerd/config.toml
sed -i 's/restrict_oom_score_adj = .*/restrict_oom_score_adj = {oom}/' /etc/containerd/config.toml
cat >> /etc/containerd/config.toml <<'REGISTRY'
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "/etc/containerd/certs.d"
REGISTRY
systemctl enable kubelet.service containerd.service undo-mount-hacks.service
systemctl mask systemd-binfmt.service
mkdir -p /kind/manifests /etc/containerd/certs.d
printf %s 'v{kubernetes}' > /kind/version
cat > /etc/cni/net.d/10-pods.conflist <<'CNI'
{json.dumps(CNI, indent=2)}
CNI
cat > /kind/manifests/default-storage.yaml <<'STORAGE'
{STORAGE_CLASS}
STORAGE
containerd > /tmp/containerd.log 2>&1 &
for i in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
ctr --namespace=k8s.io images import --label=io.cri-containerd.pinned=pinned --all-platforms \
  --no-unpack --digests /components/images.tar || {{ tail -20 /tmp/containerd.log >&2; exit 1; }}
ctr --namespace=k8s.io images list -q
kill %1
wait %1 || true
rm -rf /tmp/containerd.log /run/containerd
""",
        stop_signal="SIGRTMIN+3",
        changes=(
            "ENV container=docker",
            'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]',
        ),
    )
