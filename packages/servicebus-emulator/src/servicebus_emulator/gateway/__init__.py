"""What AMQP's links and messages mean to the broker.

:mod:`message` turns payloads into drafts and messages into payloads, :mod:`hub` serves links,
:mod:`management` answers ``$management``, :mod:`tokens` answers ``$cbs``.
"""
