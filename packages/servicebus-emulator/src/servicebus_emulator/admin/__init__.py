"""The administration over HTTP, without sockets: :mod:`http` frames requests, :mod:`routes` answers
them, :mod:`atom` and :mod:`arm` are the two languages in which Azure's clients ask."""
