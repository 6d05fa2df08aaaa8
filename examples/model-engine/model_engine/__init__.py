"""The sample model engine: endpoints whose tasks wait in Service Bus queues.

One image, three processes: :mod:`model_engine.gateway` (HTTP), :mod:`model_engine.builder`
(queues, and the workers that consume them) and :mod:`model_engine.cacher` (Redis view).
"""
