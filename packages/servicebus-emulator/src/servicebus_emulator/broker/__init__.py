"""The rules of queues and topics: no wire, and no clock - every call is told what time it is.

:mod:`model` is what there is, :mod:`queue` what may happen to it, :mod:`topic` how a topic's
messages come to its subscriptions by their :mod:`rules` (:mod:`sql` is their language),
:mod:`namespace` the queues and :mod:`topics` the topics by name and what is due when,
:mod:`journal` what has happened.
"""
