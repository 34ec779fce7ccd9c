"""What to do with an offer: a customer's ordered rules, the first that matches decides.

Pure: a policy, a request, what the store knows (`worker.facts`) and `now` give a decision. A rule that reads what is
not known never decides (`worker.expression`), and an expression that fails never accepts and never declines.
"""

from worker.policy.decision import Decision, Reason, Verdict
from worker.policy.file import PolicyError, load, read
from worker.policy.offer import Offer, Sample, pickup_time
from worker.policy.rules import NO_POLICY, Explanation, Policy, Rule, Tried, Went

__all__ = [
    "NO_POLICY",
    "Decision",
    "Explanation",
    "Offer",
    "Policy",
    "PolicyError",
    "Reason",
    "Rule",
    "Sample",
    "Tried",
    "Verdict",
    "Went",
    "load",
    "pickup_time",
    "read",
]
