"""
One worker process: it owns partitions, wakes on doorbells, and drains.
"""
