"""Every mutant, by the name of the guard that it lacks."""

from tests.simulation import coordinator_mutants, loss_mutants, worker_mutants
from tests.simulation.mutant import MUTANTS, Mutant

__all__ = ["MUTANTS", "Mutant", "coordinator_mutants", "loss_mutants", "worker_mutants"]
