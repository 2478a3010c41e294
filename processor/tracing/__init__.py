"""
Following a request: `correlation` has the ids that go with it everywhere, and `spans` what each piece of work took.
"""
