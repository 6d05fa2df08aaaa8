"""DefaultAzureCredential in a program of its own, told by its environment alone."""

from __future__ import annotations

import time
from pathlib import Path

import jwt
import pytest

from tests.compatibility.conftest import APP_SERVICE, HOST, PATIENCE, Emulator
from tests.compatibility.programs import Programs

CLIENT = {"AZURE_CLIENT_ID": "a-client", "AZURE_TENANT_ID": "a-tenant"}
ENVIRONMENTS = {
    "app-service": APP_SERVICE,
    "imds": {"AZURE_POD_IDENTITY_AUTHORITY_HOST": f"http://{HOST}:443"},
    "workload": {**CLIENT, "AZURE_AUTHORITY_HOST": f"https://{HOST}"},
    # Azure's own authority, by its name: what a pod of AKS asks.
    "entra": CLIENT,
}


@pytest.mark.parametrize("source", ENVIRONMENTS)
def test_a_queue_is_used_without_any_key(
    emulator: Emulator, programs: Programs, tmp_path: Path, source: str
) -> None:
    claims = {"aud": "api://AzureADTokenExchange", "exp": time.time() + 600}
    (tmp_path / "token").write_text(jwt.encode(claims, "the key of a cluster that is not there"))
    environment = {**ENVIRONMENTS[source], "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "token")}
    argv = emulator.inside.python("tests.compatibility.identity_peer", HOST, source)
    said = programs.run(argv, log=f"identity-{source}", env=environment, timeout=PATIENCE)
    assert said.strip() == "work"
    assert emulator.kinds(source) == ["enqueued", "delivered", "completed"]
