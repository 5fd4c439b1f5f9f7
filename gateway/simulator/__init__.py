"""A simulated upstream: recordInfo and createTask as the real one answers them, other job APIs, and faults on demand.

For ``gateway demo``, the tests and the other side of the benchmarks; nothing that serves real traffic imports it. In
process: ``async with serve(SimulatedUpstream(SystemClock())) as base_url``. On its own: ``gateway simulate --help``.
"""

from gateway.simulator.app import SimulatedUpstream, serve
from gateway.simulator.faults import Fault, FaultKind, Faults
from gateway.simulator.scenario import Plan, PlanMix, parse_windows

__all__ = ["Fault", "FaultKind", "Faults", "Plan", "PlanMix", "SimulatedUpstream", "parse_windows", "serve"]
