"""
One module for each noun under `/v1`.
"""
