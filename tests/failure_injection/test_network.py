"""Promotions whose ways are cut: from the node to the registry while it pulls, and from us to the
cluster while it upgrades. The relays are of the cases' own; what is behind them is real."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from ci.errors import PlanRefused, PromotionFailed, RollbackFailed
from ci.model import Cluster, Image, Registry
from ci.results import (
    CauseId,
    CheckId,
    ImageRef,
    ProbePlace,
    Requests,
    StepId,
    VerdictId,
)
from ci.settings import Probing
from tests.failure_injection.link import Link
from tests.failure_injection.rig import CERTS, WITHOUT_PULL, Place, Rig, at_step, until

pytestmark = pytest.mark.timeout(600)

SERVERS = {"is gone": True, "says nothing more": False}
"""How a registry goes away in mid-pull; whether it closes its connections."""


# -- between the node and its registry -------------------------------------------------------------


class OwnRegistry:
    """The local registry under a name of this case's own, which leads the node through a link."""

    def __init__(self, place: Place, link: Link, address: str) -> None:
        self.link = link
        host = f"{place.namespace}.matrix:5000"
        self.registry = Registry(host, place.rig.tools.registry.host_url)
        folder = place.rig.folder / CERTS / host
        folder.mkdir()
        (folder / "hosts.toml").write_text(
            f'server = "http://{address}:{link.port}"\n', encoding="utf-8"
        )

    def image(self, place: Place, tag: str) -> Image:
        image = place.rig.images[tag]
        path = image.repository.partition("/")[2]
        return replace(image, repository=f"{self.registry.name}/{path}")


@pytest.fixture
def own(place: Place, rig: Rig) -> Iterator[OwnRegistry]:
    url = urlsplit(rig.tools.registry.host_url)
    assert url.hostname is not None
    assert url.port is not None
    node = f"{rig.cluster.name}-control-plane"
    gateway = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}"
    address = place.programs.run(
        [str(rig.tools.docker), "inspect", "--format", gateway, node]
    ).stdout.strip()
    with Link((url.hostname, url.port), host=address) as link:
        yield OwnRegistry(place, link, address)


@pytest.mark.end(VerdictId.REFUSED, note="0 requests lost")
@pytest.mark.parametrize("how", SERVERS)
def test_registry_in_mid_pull(place: Place, own: OwnRegistry, how: str) -> None:
    place.install(repository=own.image(place, "v1").repository)
    place.watch()
    gone = SERVERS[how]
    image = own.image(place, "large-0" if gone else "large-1")
    own.link.trap(after=1 << 20, ends=gone)
    facts = ("ImagePull",) if gone else ()
    problem = place.refused(PlanRefused, *facts, check=CheckId.IMAGE_PULLABLE)(
        place.promote,
        image,
        context=place.context(own.registry),
        image_repository=image.repository,
        timeout_seconds=150 if gone else 15,
    )
    assert own.link.sprung.is_set(), "it was not in mid-pull"
    (pull,) = (check for check in problem.checks if check.id is CheckId.IMAGE_PULLABLE)
    assert ImageRef(image.repository, image.tag, image.digest) in pull.measured
    place.ends("v1", 1)
    place.nothing_lost()


@pytest.mark.end(VerdictId.ROLLED_BACK, note="0 requests lost")
@pytest.mark.parametrize("how", SERVERS)
def test_registry_in_mid_pull_of_the_upgrade(place: Place, own: OwnRegistry, how: str) -> None:
    place.install(repository=own.image(place, "v1").repository)
    place.watch()
    gone = SERVERS[how]
    image = own.image(place, "large-2" if gone else "large-3")
    own.link.trap(after=1 << 20, ends=gone)
    fact = "ImagePull" if gone else image.by_tag
    place.refused(PromotionFailed, fact, cause=CauseId.IMAGE_NOT_PULLED)(
        place.promote,
        image,
        context=place.context(own.registry),
        image_repository=image.repository,
        pull_on_nodes=False,
        require=WITHOUT_PULL,
        timeout_seconds=150 if gone else 20,
    )
    assert own.link.sprung.is_set(), "it was not in mid-pull"
    place.ends("v1", 3)
    place.nothing_lost()


# -- between clients outside and the Service -------------------------------------------------------


@pytest.fixture
def door(place: Place, rig: Rig) -> Iterator[Link]:
    """A link to a port of the node that leads to the Service, as a load balancer would."""
    place.install(drainSeconds=10)
    place.watch()
    ports = {"spec": {"ports": [{"port": 80, "targetPort": 5000}], "type": "NodePort"}}
    place.kubectl(
        "expose", "deployment/engine", "--name=door", "--port=80", "--target-port=5000",
        "--type=NodePort", f"--overrides={json.dumps(ports)}",
    )  # fmt: skip
    port = place.kubectl("get", "service/door", "-o", "jsonpath={.spec.ports[0].nodePort}")
    address = place.kube.run(
        "get", "nodes", "-o", "jsonpath={.items[0].status.addresses[0].address}"
    ).stdout
    with Link((address, int(port))) as link:

        def leads() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{link.port}/work", timeout=2).is_success
            except httpx.HTTPError:
                return False  # kube-proxy does not know the port yet

        until("the door to lead to the Service", leads)
        yield link


@pytest.mark.end(VerdictId.PROMOTED, note="0 requests lost, from outside neither")
def test_clients_outside_lose_nothing(place: Place, door: Link) -> None:
    probing = Probing(path="/work", outside_url=f"http://127.0.0.1:{door.port}/work")
    promoted = place.promote("v2", probing=probing)
    checks = {(check.id, check.subject): check for check in promoted.checks}
    (outside,) = checks[CheckId.REQUESTS_ANSWERED, ProbePlace.EXTERNAL].measured
    assert isinstance(outside, Requests)
    assert outside.failed == 0, outside
    assert outside.sent == outside.answered >= 100, outside
    place.ends("v2", 2)
    place.nothing_lost()


@pytest.mark.end(VerdictId.ROLLED_BACK, note="requests were lost outside alone")
def test_clients_outside_are_cut_off(place: Place, door: Link) -> None:
    """Helm, the pods and every request inside say that all is well."""
    place.hooks.append(at_step(StepId.VERIFY_DIGESTS, door.end))
    refused = place.refused(PromotionFailed, "ConnectError", cause=CauseId.REQUESTS_LOST)
    probing = Probing(path="/work", outside_url=f"http://127.0.0.1:{door.port}/work")
    problem = refused(place.promote, "v2", probing=probing)
    lost = {c.subject: c.failed for c in problem.checks if c.id is CheckId.REQUESTS_ANSWERED}
    assert lost == {ProbePlace.IN_CLUSTER: False, ProbePlace.EXTERNAL: True}
    place.ends("v1", 3)
    place.nothing_lost()


# -- between us and the cluster --------------------------------------------------------------------


@pytest.fixture
def way(rig: Rig, tmp_path: Path) -> Iterator[tuple[Link, Cluster]]:
    """A link to the API server, and the cluster as it is seen through it."""
    config = yaml.safe_load(rig.cluster.kubeconfig.read_text(encoding="utf-8"))
    server = urlsplit(config["clusters"][0]["cluster"]["server"])
    assert server.hostname is not None
    assert server.port is not None
    with Link((server.hostname, server.port)) as link:
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{link.port}"
        file = tmp_path / "kubeconfig"
        file.touch(mode=0o600)
        file.write_text(json.dumps(config), encoding="utf-8")
        yield link, replace(rig.cluster, kubeconfig=file)


@pytest.mark.end(
    VerdictId.PROMOTED, VerdictId.ROLLED_BACK, either=True, note="whole; 0 requests lost"
)
def test_network_cut_for_a_while(place: Place, way: tuple[Link, Cluster]) -> None:
    place.install()
    place.watch()
    link, cluster = way

    def cut() -> None:
        link.cut()
        mend = threading.Timer(20, link.mend)
        mend.daemon = True
        mend.start()

    place.hooks.append(at_step(StepId.UPGRADE, cut, later=2.5))
    try:
        place.promote("v2", cluster=cluster)
    except PromotionFailed as problem:
        place.row.cause, place.row.message = problem.cause, str(problem)
        place.ends("v1", 3)
    else:
        place.ends("v2", 2)
    place.nothing_lost()


@pytest.mark.end(
    VerdictId.ROLLBACK_FAILED, VerdictId.REFUSED, VerdictId.RETURNED, note="0 requests lost"
)
def test_network_cut_for_longer_than_it_is_waited_for(
    place: Place, way: tuple[Link, Cluster]
) -> None:
    place.stand()
    link, cluster = way
    place.hooks.append(at_step(StepId.UPGRADE, link.cut, later=2.5))
    refused = place.refused(
        RollbackFailed,
        f"rollback engine-release {place.first} --wait",
        "quick-rollback.sh",
    )
    refused(place.promote, "v2", cluster=cluster, timeout_seconds=20)
    assert place.end().version, "nothing serves"
    link.mend()
    place.hooks.clear()
    place.refused(PlanRefused, "pipeline.py rollback")(place.promote, "v2")
    place.rollback()
    place.first = place.history()[-1].number
    place.ends("v1", 1)
    place.nothing_lost()
