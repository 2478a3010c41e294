"""
The rules: one module for each kind of request, and one for each later step of a request.

Everything here is pure: no SQL, and the time is an argument. `processor.domain.kinds` names the rule of each kind.
"""
