"""Runs in a pod of the emulator's image, beside the files of other images: finds the bundles of
CA certificates that they trust, wherever they keep them.

Standard library only, Python 3.8 or newer, sent as ``python -c``. Other images are mounted at
``IMAGES/0``, ``IMAGES/1`` and so on, read-only; nothing of theirs is run, so that they need no
shell. With one argument, IMAGES, it prints their bundles' paths as JSON, a list for each image.
With a second one it writes each bundle with the certificate in ``STAND_IN_CA`` at its end to
``SECOND/N/stores/PATH``, and to ``SECOND/N/bundle.pem`` the one that the image's own OpenSSL
would take.
"""

import json
import os
import sys

NAMES = (
    "cacert.pem",  # certifi, also those that pip and botocore carry
    "roots.pem",  # gRPC
    "ca-certificates.crt",  # Debian, Alpine
    "ca-bundle.crt",  # Red Hat
    "tls-ca-bundle.pem",
    "ca-bundle.pem",  # SUSE
    "cert.pem",  # OpenSSL's own place
)
SYSTEM = (
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
)
LARGEST = 8 << 20


def bundle(path: str) -> bytes:
    """The file, if it is a bundle of certificates and holds no key; empty otherwise."""
    try:
        if os.path.islink(path) or os.path.getsize(path) > LARGEST:
            return b""  # the link's target is found by itself
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        return b""
    is_one = b"-----BEGIN CERTIFICATE-----" in content and b"PRIVATE KEY-----" not in content
    return content if is_one else b""


def bundles(root: str) -> "dict[str, bytes]":
    """Every bundle below ``root`` by its path from there."""
    found = {}
    for folder, _, files in os.walk(root):
        for name in files:
            if name in NAMES:
                path = os.path.join(folder, name)
                content = bundle(path)
                if content:
                    found[os.path.relpath(path, root)] = content
    return dict(sorted(found.items()))


def merge(found: "dict[str, bytes]", into: str, authority: bytes) -> None:
    """Write each bundle, and the one for OpenSSL, with ``authority`` at the end."""

    def write(path: str, content: bytes) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content.rstrip() + b"\n" + authority.strip() + b"\n")

    for path, content in found.items():
        write(os.path.join(into, "stores", path), content)
    first = [path for path in SYSTEM if path in found] + list(found)
    write(os.path.join(into, "bundle.pem"), found[first[0]] if first else b"")


def main(images: str, into: str = "") -> None:
    os.umask(0o022)  # the other containers' users have to read it
    known = []
    for number in sorted(os.listdir(images), key=int):
        found = bundles(os.path.join(images, number))
        known.append(["/" + path for path in found])
        if into:
            merge(found, os.path.join(into, number), os.environ["STAND_IN_CA"].encode())
    print(json.dumps(known), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
