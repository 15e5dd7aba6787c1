"""The benchmarks: a module each, with `trials(lab)`, in the order in which they run."""

NAMES = ("engine", "runs", "sleepers", "replies", "recovery", "crons", "growth")
HIDDEN = ("smoke",)
"""To be asked for by name only."""
