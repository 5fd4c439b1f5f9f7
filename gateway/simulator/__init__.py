"""A simulated upstream: recordInfo and createTask as the real one answers them, with faults on demand.

Used by ``gateway demo``, by the tests and as the other side of the benchmarks; nothing that serves real traffic
imports it. In process: ``async with serve(SimulatedUpstream(SystemClock())) as base_url``. On its own:
``gateway simulate --help``. ``scenario`` holds what tasks do, ``faults`` what goes wrong, ``stats`` what is counted,
``app`` the HTTP.
"""

from gateway.simulator.app import SimulatedUpstream, serve
from gateway.simulator.faults import Fault, FaultKind, Faults
from gateway.simulator.scenario import Plan, PlanMix, Window, parse_windows

__all__ = ["Fault", "FaultKind", "Faults", "Plan", "PlanMix", "SimulatedUpstream", "Window", "parse_windows", "serve"]
