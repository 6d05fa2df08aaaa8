"""Rules of the rehearsal: how a live release becomes one that fits the gate cluster, and what
has to hold there after each change. Pure; :mod:`ci.stages.rehearse` does what they ask."""
