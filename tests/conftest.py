"""What holds for every test: it draws no luck.

Property tests play the same examples in every run, whichever tests run beside them, and keep none that failed for the
next one. Fresh luck is for ``make simulate`` and ``make crash``.
"""

from hypothesis import settings
from hypothesis.internal.conjecture import providers

# Hypothesis also draws the constants in the source of whatever is imported by then: a test would see other examples
# alone than in company. There is no setting for it.
providers._get_local_constants = lambda: providers._local_constants
settings.register_profile("fixed", derandomize=True, database=None)
settings.load_profile("fixed")
