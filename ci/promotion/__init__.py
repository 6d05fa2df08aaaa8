"""The promotion's parts, in the order in which :mod:`ci.stages.promote` uses them.

====================  =============================================================================
questions             ``before``, with the rules in ``preflight``, ``checks``, ``pull``, ``surge``
what would change     ``planning``, with the rules in ``plan``
what watches          ``lease`` (one promotion at a time), ``probing`` (``prober``, ``inside``),
                      ``canary``, ``soak`` with ``gates``
the change            ``change``, with the rules in ``rollout``; ``compat`` for the API
the way back          ``backups`` made beforehand; ``recovery``, ``evidence``, ``cause``
====================  =============================================================================

``live`` reads a target, ``redaction`` keeps secrets out of what is written.
"""
