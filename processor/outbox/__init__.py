"""
The rows that couriers send. Each module claims those that are due, and records the results.

    gateway_calls    calls of gateways
    deliveries       notifications by webhook and e-mail
    code_messages    one-time codes
    address_notices  mails to addresses that an account no longer has
    tries            the result of a try, and the time of the next one

Nothing here sends anything; `workers/courier/` does. The courier and the tests import this package. Each
table has its own claim statement, written out in full, so that EXPLAIN can take it from the file.
"""
