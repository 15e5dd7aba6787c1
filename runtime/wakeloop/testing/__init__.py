"""What users test their agents with: the real engine on a virtual clock, and a stand-in for a provider."""

from wakeloop.testing.simulation import SentMessage, Simulation

__all__ = ["SentMessage", "Simulation"]
