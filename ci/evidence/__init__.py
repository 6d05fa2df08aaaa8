"""Evidence of a proof: what it says, who signed it, and whether it may be relied on. Pure rules
and formats; :mod:`ci.tools.registry` carries the bytes, :mod:`ci.stages.attest` ties them together.

The formats are others': an in-toto Statement v1 with the test-result predicate v0.1, inside a
DSSE v1 envelope. Anybody's verifier can read ours.
"""
