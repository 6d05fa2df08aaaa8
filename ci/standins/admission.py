"""Manifests of an admission policy that gives matching pods Azure's identity and the stand-ins' CA.
Pure.

A ``MutatingAdmissionPolicy`` rather than a webhook: the API server evaluates it itself (on by
default since Kubernetes 1.36), so that it needs no server, certificate or rights, and no outage of
a webhook can block the creation of pods. It changes pods as they are created, whoever creates
them: also those that the service creates at run time, which no chart value reaches.

A matching pod gets, like from AKS's own workload identity webhook,

- a projected token of its ServiceAccount, and the environment variables that name it;

and, so that an unmodified image trusts the stand-ins' certificates,

- an init container, before all others, that reads the CA bundles in the images of the pod (mounted
  as volumes, not run) and writes copies with the stand-ins' CA appended;
- a mount of each copy over the original, in every container: AMQP over TLS trusts only certifi's
  bundle, whatever the environment, and its path differs between images. So the paths are looked up
  beforehand (:func:`asking`); for an image that was not inspected, those of another image of its
  repository are used;
- ``SSL_CERT_FILE``, ``REQUESTS_CA_BUNDLE`` and ``NODE_EXTRA_CA_CERTS``, for programs that read no
  bundle by its path.

Variables and mounts that a container has itself are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from servicebus_emulator import EXCHANGE_AUDIENCE, SYSTEM_ASSIGNED, TENANT

NAME = "stand-in-cloud"
LABEL = "queue-timeout-gate/stand-in-cloud"
SELECTOR = "azure.workload.identity/use=true"
"""The label of pods to which AKS gives an identity; the real service's chart sets it."""
AUTHORITY = "login.microsoftonline.com"
AZURE_NAMES = ("*.servicebus.windows.net", AUTHORITY)
"""The Azure names that the emulator serves: Service Bus namespaces and the token endpoint."""
VERSION = "STAND_IN_CLOUD"
"""Environment variable of the init container with the version of the policy that added it."""

TRUST = "/var/run/stand-in-cloud"
TOKENS = "/var/run/secrets/azure/tokens"
_TOKEN = "azure-identity-token"
_IMAGES = "/images"
_OUT = "/trust"
_TRUST_VOLUME = f"{NAME}-trust"
_TOKEN_VOLUME = f"{NAME}-token"
_SCRIPT = Path(__file__).parent / "trust.py"
_UNPRIVILEGED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}

Manifest = dict[str, Any]


class Expression(str):
    """A CEL expression among literal values."""


def environment() -> dict[str, str]:
    """The variables that a container gets unless it sets them itself."""
    bundle = f"{TRUST}/bundle.pem"
    return {
        "AZURE_AUTHORITY_HOST": f"https://{AUTHORITY}/",
        "AZURE_CLIENT_ID": SYSTEM_ASSIGNED,
        "AZURE_FEDERATED_TOKEN_FILE": f"{TOKENS}/{_TOKEN}",
        "AZURE_TENANT_ID": TENANT,
        "NODE_EXTRA_CA_CERTS": bundle,
        "REQUESTS_CA_BUNDLE": bundle,
        "SSL_CERT_FILE": bundle,
    }


def asking(name: str, namespace: str, images: Sequence[str], emulator: str) -> Manifest:
    """The pod that prints the paths of the CA bundles in ``images`` as JSON, one list per image."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {LABEL: "asking"}},
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 600,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": [
                {
                    "name": "asking",
                    "image": emulator,
                    "command": ["python3", "-c", _SCRIPT.read_text(encoding="utf-8"), _IMAGES],
                    "securityContext": _UNPRIVILEGED,
                    "volumeMounts": [
                        {"name": f"image-{number}", "mountPath": f"{_IMAGES}/{number}"}
                        for number in range(len(images))
                    ],
                }
            ],
            "volumes": [
                {
                    "name": f"image-{number}",
                    "image": {"reference": image, "pullPolicy": "IfNotPresent"},
                }
                for number, image in enumerate(images)
            ],
        },
    }


def policy(
    selector: str, bundles: Mapping[str, Sequence[str]], emulator: str, ca: str, spared: str
) -> tuple[list[Manifest], str]:
    """The policy with its binding, and the version that its init containers name.

    ``bundles`` maps the image references of pods to the bundle paths in each; ``spared`` is the
    namespace of the stand-ins, whose pods are not changed.
    """
    spec = {
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "matchConstraints": {
            "objectSelector": labels(selector),
            "namespaceSelector": {
                "matchExpressions": [
                    {
                        "key": "kubernetes.io/metadata.name",
                        "operator": "NotIn",
                        "values": ["kube-system", spared],
                    }
                ]
            },
            "resourceRules": [
                {
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE"],
                    "resources": ["pods"],
                }
            ],
        },
        "matchConditions": [
            {
                # Not a copy of a pod that was changed already.
                "name": "once",
                "expression": "!has(object.spec.initContainers) || "
                f'!object.spec.initContainers.exists(c, c.name == "{NAME}")',
            }
        ],
        "variables": [
            {
                "name": "first",
                "expression": "has(object.spec.initContainers) ? object.spec.initContainers : []",
            },
            {"name": "bundles", "expression": _bundles(bundles)},
            {"name": "repositories", "expression": json.dumps(_repositories(bundles))},
            {
                "name": "env",
                "expression": json.dumps(
                    [{"name": name, "value": value} for name, value in environment().items()]
                ),
            },
        ],
    }
    whole = json.dumps([spec, _merging(emulator, ca, "")])
    version = hashlib.sha256(whole.encode()).hexdigest()[:16]
    expressions = [
        _of_containers("initContainers", "variables.first", "0"),
        _of_containers("containers", "object.spec.containers", "size(variables.first)"),
        _volumes(),
        _merging(emulator, ca, version),
    ]
    spec["mutations"] = [
        {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}
        for expression in expressions
    ]
    kind = "MutatingAdmissionPolicy"
    common = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": NAME}}
    return [
        {**common, "kind": kind, "spec": spec},
        {**common, "kind": f"{kind}Binding", "spec": {"policyName": NAME}},
    ], version


def example(selector: str) -> Manifest:
    """A pod that the selector chooses, to see what becomes of it. It is never made."""
    chosen = labels(selector)
    named = {entry["key"]: "" for entry in chosen.get("matchExpressions", [])}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{NAME}-example",
            "namespace": "default",
            "labels": {**named, **chosen.get("matchLabels", {})},
        },
        "spec": {"containers": [{"name": "example", "image": "example.invalid/never-made"}]},
    }


def version_of(pod: Mapping[str, Any]) -> str:
    """The version of the policy that changed a pod; empty when none did."""
    for container in pod["spec"].get("initContainers") or []:
        if container["name"] == NAME:
            return next(str(e["value"]) for e in container["env"] if e["name"] == VERSION)
    return ""


def labels(selector: str) -> Manifest:
    """A label selector as kubectl writes it, of ``KEY=VALUE`` and ``KEY`` with commas between."""
    equal, exists = {}, []
    for term in filter(None, (term.strip() for term in selector.split(","))):
        key, is_equal, value = term.partition("=")
        if is_equal:
            equal[key.strip()] = value.strip()
        else:
            exists.append({"key": key, "operator": "Exists"})
    return {
        **({"matchLabels": equal} if equal else {}),
        **({"matchExpressions": exists} if exists else {}),
    }


def repository(image: str) -> str:
    """An image reference without its tag and digest."""
    name = image.partition("@")[0]
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}"


# -- CEL -------------------------------------------------------------------------------------------


def cel(value: Any, kind: str) -> str:
    """A literal, with ``kind`` as the type of objects: ``Object.spec.volumes`` and what is below.

    Strings are written as JSON writes them, which CEL reads alike.
    """
    if isinstance(value, Expression):
        return str(value)
    if isinstance(value, Mapping):
        fields = (f"{key}: {cel(inner, f'{kind}.{key}')}" for key, inner in value.items())
        return f"{kind}{{{', '.join(fields)}}}"
    if isinstance(value, list):
        return f"[{', '.join(cel(inner, kind) for inner in value)}]"
    return json.dumps(value)


def _bundles(bundles: Mapping[str, Sequence[str]]) -> str:
    """Bundle paths by image, and by repository those of its image that was inspected last."""
    paths_of = {repository(image): list(paths) for image, paths in bundles.items()}
    paths_of |= {image: list(paths) for image, paths in bundles.items()}
    return json.dumps(paths_of)


def _repositories(bundles: Mapping[str, Sequence[str]]) -> list[str]:
    return sorted({repository(image) for image in bundles})


def _of_containers(field: str, containers: str, offset: str) -> str:
    """Environment and mounts of the containers in one list of the pod; ``offset`` is the number
    of the first among all of the pod."""
    path = f"/spec/{field}/{{i}}"
    number = f"string(i + {offset})"
    known = (
        "(c.image in variables.bundles ? [c.image] : variables.repositories.filter(r,"
        ' c.image.startsWith(r + ":") || c.image.startsWith(r + "@")))'
        ".map(known, variables.bundles[known]).flatten()"
    )
    mounts = (
        f'[{{"name": "{_TRUST_VOLUME}", "mountPath": "{TRUST}", "subPath": {number}}},'
        f' {{"name": "{_TOKEN_VOLUME}", "mountPath": "{TOKENS}"}}] +'
        f' {known}.map(p, {{"name": "{_TRUST_VOLUME}", "mountPath": p,'
        f' "subPath": {number} + "/stores" + p}})'
    )
    free = (
        "!has(c.volumeMounts) || !c.volumeMounts.exists(x, m.mountPath == x.mountPath"
        ' || m.mountPath.startsWith(x.mountPath + "/"))'
    )
    unset = "!has(c.env) || !c.env.exists(x, x.name == e.name)"
    return (
        f"{containers}.transformList(i, c,"
        f" (has(c.env) ? [] : [{_add(f'{path}/env', '[]')}])"
        f" + variables.env.filter(e, {unset}).map(e, {_add(f'{path}/env/-', 'e')})"
        f" + (has(c.volumeMounts) ? [] : [{_add(f'{path}/volumeMounts', '[]')}])"
        f" + ({mounts}).filter(m, {free}).map(m, {_add(f'{path}/volumeMounts/-', 'm')})"
        ").flatten()"
    )


def _volumes() -> str:
    trust = {"name": _TRUST_VOLUME, "emptyDir": {"sizeLimit": "64Mi"}}
    source = {
        "serviceAccountToken": {
            "audience": EXCHANGE_AUDIENCE,
            "expirationSeconds": 3600,
            "path": _TOKEN,
        }
    }
    token = {"name": _TOKEN_VOLUME, "projected": {"sources": [source]}}
    image = {
        "name": Expression(f'"{NAME}-image-" + string(n)'),
        "image": {"reference": Expression("c.image"), "pullPolicy": "IfNotPresent"},
    }
    kind = "Object.spec.volumes"
    path = "/spec/volumes/-"
    return (
        f"(has(object.spec.volumes) ? [] : [{_add('/spec/volumes', '[]')}])"
        f" + [{_add(path, cel(trust, kind))}, {_add(path, cel(token, kind))}]"
        " + (variables.first + object.spec.containers)"
        f".transformList(n, c, {_add(path, cel(image, kind))})"
    )


def _merging(emulator: str, ca: str, version: str) -> str:
    """The init container, before those that the pod has."""
    kind = "Object.spec.initContainers"
    mount = {
        "name": Expression(f'"{NAME}-image-" + string(n)'),
        "mountPath": Expression(f'"{_IMAGES}/" + string(n)'),
        "readOnly": True,
    }
    out = {"name": _TRUST_VOLUME, "mountPath": _OUT, "readOnly": False}
    mounts = (
        f"[{cel(out, f'{kind}.volumeMounts')}] + (variables.first + object.spec.containers)"
        f".transformList(n, c, {cel(mount, f'{kind}.volumeMounts')})"
    )
    container = {
        "name": NAME,
        "image": emulator,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", _SCRIPT.read_text(encoding="utf-8"), _IMAGES, _OUT],
        "env": [{"name": "STAND_IN_CA", "value": ca}, {"name": VERSION, "value": version}],
        "resources": {
            "requests": {"cpu": "10m", "memory": "32Mi"},
            "limits": {"cpu": "1", "memory": "128Mi"},
        },
        "securityContext": _UNPRIVILEGED,
        "volumeMounts": Expression(mounts),
    }
    path = "/spec/initContainers"
    # The API server cannot patch with a list that has an object in it, but with an empty one.
    return (
        f"(has(object.spec.initContainers) ? [] : [{_add(path, '[]')}])"
        f" + [{_add(f'{path}/0', cel(container, kind))}]"
    )


def _add(path: str, value: str) -> str:
    """A step of a JSON patch; ``{i}`` in its path is the variable of that name."""
    before, number, after = path.partition("{i}")
    where = json.dumps(before) + (f" + string(i) + {json.dumps(after)}" if number else "")
    return f'JSONPatch{{op: "add", path: {where}, value: {value}}}'
