"""The rules of queues: no wire, and no clock - every call is told what time it is.

:mod:`model` is what there is, :mod:`queue` what may happen to it, :mod:`namespace` the queues by
name and what is due when, :mod:`journal` what has happened.
"""
