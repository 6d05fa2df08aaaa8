"""A stand-in for Azure Service Bus: queues and topics that keep time as Azure does.

It imports nothing else of this project and could be a package of its own. From the inside out:

``amqp``      AMQP 1.0 without sockets: bytes in, events out
``broker``    the rules of queues and topics; ``now`` is an argument, there is no wire and no clock
``gateway``   what a link, ``$cbs`` and ``$management`` mean to the broker
``admin``     the administration over HTTP: Atom for the SDK, ARM JSON for ``az``, JSON for people
``server``    the only sockets and the only clock
"""
