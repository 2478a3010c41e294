"""
Rows as records and JSON documents, pages of lists, and the audit. Imported by everything that reads or writes rows.
"""
