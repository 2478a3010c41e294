"""
The profile of Hypothesis: examples have no time limit, because a busy machine is no fault of Teller.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
