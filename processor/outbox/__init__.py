"""
What couriers send: gateway calls, deliveries, code messages and address notices, each claimed and recorded here.
"""
