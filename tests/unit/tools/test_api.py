"""Questions to a cluster's API, through the real client, to a server that only remembers."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ci.errors import CommandFailed, Interrupted
from ci.model import Cluster
from ci.tools.command import Programs
from ci.tools.kube import Kube
from ci.tools.wait import SystemClock
from tests.unit.serving import serving

FORBIDDEN = {
    "kind": "Status",
    "reason": "Forbidden",
    "message": 'secrets "s" is forbidden: User "ci" cannot get resource "secrets"',
}


class Server(ThreadingHTTPServer):
    """``answers`` by method and path; every request is in ``asked``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.asked: list[tuple[str, str, dict[str, list[str]], Any, str]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        where = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"null")
        key = (self.command, where.path)
        token = self.headers.get("Authorization", "")
        self.server.asked.append((*key, parse_qs(where.query), body, token))
        status, said = self.server.answers.get(key, (404, {"reason": "NotFound", "message": "no"}))
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with serving(server):
        yield server


def kubeconfig(path: Path, port: int, user: Any = None) -> Path:
    described = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "another",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": user or {"token": "t0ken"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(yaml.safe_dump(described), encoding="utf-8")
    return path


@pytest.fixture
def kube(tmp_path: Path, server: Server) -> Kube:
    file = kubeconfig(tmp_path / "kubeconfig", server.server_address[1])
    return Kube(
        Path("no-kubectl"), Cluster("c", file, "here", True), Programs(env={}), SystemClock()
    )


def test_a_list_tells_each_item_s_kind(kube: Kube, server: Server) -> None:
    listed = {"apiVersion": "apps/v1", "kind": "DeploymentList", "items": [{"spec": {}}]}
    server.answers["GET", "/apis/apps/v1/namespaces/n/deployments"] = 200, listed
    assert kube.objects("deployments", "n", "app=x") == [
        {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {}}
    ]
    ((_, _, query, _, token),) = server.asked
    assert query == {"labelSelector": ["app=x"]}
    assert token == "Bearer t0ken"


@pytest.mark.program
@pytest.mark.parametrize(("lives", "asked"), [(-1, ["1", "2"]), (3600, ["1", "1"])])
def test_a_token_that_ran_out_is_asked_for_again(
    tmp_path: Path, server: Server, lives: int, asked: list[str]
) -> None:
    """AKS and EKS hand them out for an hour or less, by a program; a soak may be longer."""
    ends = (datetime.now(UTC) + timedelta(seconds=lives)).isoformat()
    (tmp_path / "helper").write_text(
        f"echo >> {tmp_path}/calls\n"
        """printf '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential","""
        f""" "status": {{"token": "%d", "expirationTimestamp": "{ends}"}}}}' """
        f"$(wc -l < {tmp_path}/calls)\n",
        encoding="utf-8",
    )
    helper = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": [str(tmp_path / "helper")],
        "interactiveMode": "Never",
    }
    file = kubeconfig(tmp_path / "kubeconfig", server.server_address[1], {"exec": helper})
    kube = Kube(Path("no"), Cluster("c", file, "here", True), Programs(env={}), SystemClock())
    for _ in range(2):
        assert kube.read("secrets", "s", "n") is None
    tokens = [int(token.removeprefix("Bearer ")) for *_, token in server.asked]
    assert [str(token - tokens[0] + 1) for token in tokens] == asked


def test_one_object_or_none_or_the_reason(kube: Kube, server: Server) -> None:
    assert kube.read("secrets", "s", "n") is None
    server.answers["GET", "/api/v1/namespaces/n/secrets/s"] = 403, FORBIDDEN
    with pytest.raises(CommandFailed, match=r"secrets/s: Error from server \(Forbidden\)") as said:
        kube.read("secrets", "s", "n")
    assert said.value.output.startswith("Error from server (Forbidden): secrets")


def test_an_object_of_any_kind_is_found_where_its_kind_lives(kube: Kube, server: Server) -> None:
    known = [
        {"kind": "ClusterRole", "name": "clusterroles", "namespaced": False},
        {"kind": "Role", "name": "roles", "namespaced": True},
        {"kind": "Role", "name": "roles/status", "namespaced": True},
    ]
    rbac = "rbac.authorization.k8s.io/v1"
    server.answers["GET", f"/apis/{rbac}"] = 200, {"resources": known}
    server.answers["GET", f"/apis/{rbac}/namespaces/n/roles/r"] = 200, {"kind": "Role"}
    server.answers["GET", f"/apis/{rbac}/clusterroles/r"] = 403, FORBIDDEN
    assert kube.find(rbac, "Role", "r", "n").object() == {"kind": "Role"}
    assert kube.find(rbac, "Role", "gone", "n").code == 404
    assert kube.find(rbac, "ClusterRole", "r", "n").code == 403
    assert kube.find(rbac, "Rule", "r", "n").code == 0
    assert kube.find("gone.example/v1", "Role", "r", "n").code == 0
    assert [path for _, path, *_ in server.asked].count(f"/apis/{rbac}") == 1


def test_what_is_applied_goes_out_whole_and_is_ours(kube: Kube, server: Server) -> None:
    known = [{"kind": "Secret", "name": "secrets", "namespaced": True}]
    server.answers["GET", "/api/v1"] = 200, {"resources": known}
    server.answers["PATCH", "/api/v1/namespaces/n/secrets/s"] = 200, {}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "namespace": "n"},
        "stringData": {"key": "text"},
    }
    kube.apply([secret])
    assert server.asked[-1][2:4] == (
        {"fieldManager": ["kubectl"], "force": ["true"], "fieldValidation": ["Strict"]},
        secret,
    )
    with pytest.raises(CommandFailed, match="apply of Secret other"):
        kube.apply([{**secret, "metadata": {"name": "other"}}])
    with pytest.raises(CommandFailed, match="has no kind Sekret in v1"):
        kube.apply([{**secret, "kind": "Sekret"}])


def test_what_is_written_goes_out_as_it_is(kube: Kube, server: Server) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"replicas": 0, "nothing": None}}
    server.answers["POST", "/api/v1/namespaces/n/pods"] = 201, pod
    assert kube.create("pods", "n", pod) == pod
    assert server.asked[0][3] == pod


def test_pods_go_one_by_one_and_nothing_is_raised(kube: Kube, server: Server) -> None:
    kube.remove_pods("n", "app=x")  # 404
    listed = {"kind": "PodList", "items": [{"metadata": {"name": name}} for name in "ab"]}
    server.answers["GET", "/api/v1/namespaces/n/pods"] = 200, listed
    server.asked.clear()
    kube.remove_pods("n", "app=x")
    assert [asked[:2] for asked in server.asked[1:]] == [
        ("DELETE", "/api/v1/namespaces/n/pods/a"),
        ("DELETE", "/api/v1/namespaces/n/pods/b"),
    ]


def test_a_log_is_text(kube: Kube, server: Server) -> None:
    server.answers["GET", "/api/v1/namespaces/n/pods/p/log"] = 200, b"one\ntwo \xff\n"
    assert kube.logs("p", "n", tailLines=2).text == "one\ntwo \N{REPLACEMENT CHARACTER}\n"
    assert server.asked[0][2] == {"tailLines": ["2"]}


def test_a_server_that_is_away_is_no_answer(tmp_path: Path, kube: Kube, server: Server) -> None:
    server.answers["GET", "/readyz"] = 200, b"ok"
    assert kube.ask("GET", "/readyz").ok
    kubeconfig(tmp_path / "kubeconfig", 9)  # made anew: the connection of before is not used
    answer = kube.ask("GET", "/readyz", timeout=5)
    assert (answer.code, answer.ok) == (0, False)
    assert "here does not answer" in answer.problem
    with pytest.raises(CommandFailed, match="does not answer"):
        kube.pods("n")


def test_a_kubeconfig_that_leads_nowhere_is_said(tmp_path: Path, kube: Kube) -> None:
    (tmp_path / "kubeconfig").unlink()
    with pytest.raises(CommandFailed, match="cannot read kubeconfig"):
        kube.ask("GET", "/readyz")
    file = kubeconfig(tmp_path / "other", 9)
    elsewhere = Cluster("c", file, "nowhere", True)
    with pytest.raises(CommandFailed, match="nowhere"):
        Kube(Path("x"), elsewhere, Programs(env={}), SystemClock()).ask("GET", "/readyz")


def test_after_ctrl_c_only_a_cleanup_asks(kube: Kube, server: Server) -> None:
    server.answers["GET", "/readyz"] = 200, b"ok"
    kube._programs.cancel.set()
    with pytest.raises(Interrupted):
        kube.ask("GET", "/readyz")
    assert kube.for_cleanup().ask("GET", "/readyz").ok


def certificate(path: Path) -> Path:
    """A certificate for the loopback address that signs itself, with its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.stem)])
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


def test_threads_that_connect_at_once_all_show_their_certificate(tmp_path: Path) -> None:
    ours, theirs = (certificate(tmp_path / f"{name}.pem") for name in ("client", "server"))
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(theirs)
    trust.load_verify_locations(ours)
    trust.verify_mode = ssl.CERT_REQUIRED
    server = Server()
    server.request_queue_size = 200
    server.answers[("GET", "/api/v1/namespaces/n/pods")] = (200, {"kind": "PodList", "items": []})
    with serving(server) as port:
        server.socket = trust.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        path = kubeconfig(tmp_path / "kubeconfig", port)
        described = yaml.safe_load(path.read_text("utf-8"))
        described["clusters"][0]["cluster"] = {
            "server": f"https://127.0.0.1:{port}", "certificate-authority": str(theirs),
        }  # fmt: skip
        described["users"][0]["user"] = {
            "client-certificate": str(ours), "client-key": str(ours),
        }  # fmt: skip

        def asked(number: int) -> int:
            # A context of its own is a client of its own, with no connection yet.
            cluster = Cluster(f"c{number}", own, f"here-{number // 16}", True)
            programs = Programs(env={})
            return len(Kube(Path("kubectl"), cluster, programs, SystemClock()).pods("n"))

        described["contexts"] = [
            {"name": f"here-{n}", "context": {"cluster": "c", "user": "u"}} for n in range(10)
        ]
        own = tmp_path / "own"
        own.write_text(yaml.safe_dump(described), encoding="utf-8")
        with ThreadPoolExecutor(max_workers=16) as pool:
            assert list(pool.map(asked, range(160))) == [0] * 160
