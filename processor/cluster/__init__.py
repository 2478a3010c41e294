"""
Workers and partitions: heartbeats, ownership, and which partitions have work.
"""
