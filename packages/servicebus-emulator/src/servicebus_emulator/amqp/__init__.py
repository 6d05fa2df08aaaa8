"""AMQP 1.0 without sockets: :mod:`codec` for values, :mod:`performatives` for frames,
:mod:`connection` for the states of a connection, its sessions and their links."""
