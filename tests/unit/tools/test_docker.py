"""What the docker program answers, as values."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.errors import CommandFailed, ToolchainError
from ci.tools.command import Output, Programs
from ci.tools.docker import Docker
from tests.unit.machine import Machine, failed, said, take_over


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return take_over(monkeypatch)


@pytest.fixture
def docker(machine: Machine) -> Docker:
    return Docker(Path("/bin/docker"), Programs(env={}))


def test_a_daemon_that_answers(docker: Docker, machine: Machine) -> None:
    machine.answer = lambda _: said("28.5.1")
    assert docker.answers()
    machine.answer = lambda _: failed("Cannot connect to the Docker daemon")
    assert not docker.answers()
    assert all(each.how["timeout"] == 10 for each in machine.started)


def test_tags_and_containers_are_listed(docker: Docker, machine: Machine) -> None:
    machine.answer = lambda words: said("a:1\nb:2\n" if words[1] == "images" else "one\ntwo\n")
    assert docker.image_tags() == {"a:1", "b:2"}
    assert list(docker.containers("label=x", "status=running")) == ["one", "two"]
    assert machine.words("docker", "ps") == [
        [
            "docker",
            "ps",
            "--all",
            "--filter",
            "label=x",
            "--filter",
            "status=running",
            "--format",
            "{{.Names}}",
        ]
    ]
    machine.forget()
    docker.containers(everything=False)
    assert "--all" not in machine.words("docker", "ps")[0]


def test_a_container_or_none(docker: Docker, machine: Machine) -> None:
    machine.answer = lambda _: said('[{"Id": "abc", "State": {"Running": true}}]')
    assert docker.inspect("one") == {"Id": "abc", "State": {"Running": True}}
    machine.answer = lambda _: failed("No such container")
    assert docker.inspect("one") is None


def test_the_port_is_of_the_first_address(docker: Docker, machine: Machine) -> None:
    machine.answer = lambda _: said("127.0.0.1:49153\n[::1]:49154\n")
    assert docker.host_port("one", 5000) == 49153
    assert machine.words() == [["docker", "port", "one", "5000/tcp"]]


def test_a_network_is_made_once_even_by_two_at_a_time(docker: Docker, machine: Machine) -> None:
    docker.ensure_network("kind", "--ipv6")
    assert machine.words("docker", "network", "create") == []

    def answer(words: list[str], problem: str) -> Output:
        return failed("not found") if words[2] == "inspect" else failed(problem)

    machine.answer = lambda words: answer(words, "network with name kind already exists")
    docker.ensure_network("kind", "--ipv6")
    assert machine.words("docker", "network", "create") == [
        ["docker", "network", "create", "--ipv6", "kind"]
    ]
    machine.answer = lambda words: answer(words, "no address is left")
    with pytest.raises(CommandFailed, match="network kind: no address is left"):
        docker.ensure_network("kind")


def test_removing_works_in_a_cleanup_and_says_nothing_of_what_is_gone(
    docker: Docker, machine: Machine
) -> None:
    machine.answer = lambda _: failed("No such container")
    docker.remove("one")
    assert machine.how("docker", "rm")["during_cleanup"] is True


def test_a_failure_is_of_the_kind_that_was_asked_for(docker: Docker, machine: Machine) -> None:
    machine.answer = lambda _: failed("denied")
    with pytest.raises(ToolchainError, match="denied"):
        docker.run("pull", "x", error=ToolchainError)
