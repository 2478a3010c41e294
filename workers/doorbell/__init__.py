"""
Doorbells over Redis: `ring` wakes workers, `announcements` wakes waiting clients. The API imports this package too.
"""
