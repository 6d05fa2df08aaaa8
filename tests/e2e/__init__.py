"""What a user of a release sees: the gateway's HTTP API, and Service Bus through Azure's SDK.

Run with the target described in a JSON file (see :mod:`tests.e2e.target`)::

    E2E_TARGET=target.json pytest tests/e2e -n 6 --dist worksteal
"""
