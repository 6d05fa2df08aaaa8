"""Azure's clients as programs of their own, unmodified, against the emulator over TLS."""
