"""
The processes behind the queue: workers that drain partitions, couriers that call the outside, the doorbell.

The api imports `workers.doorbell` and nothing else from here.
"""
