"""
The courier: calls gateways, delivers webhooks, sends e-mails and codes. It can be killed at any time.

    main             one courier process, from start to stop
    sender           the protocol of the five senders: claim, send, record
    gateway_calls    calls of gateways
    deliveries       webhook deliveries, and how many are under way to each endpoint
    request_mails    e-mails to accounts about their requests
    code_messages    one-time codes, by e-mail or text message
    address_notices  e-mails to addresses that an account no longer has
    mailer           sends e-mails over SMTP, or writes them as files
    webhook_client   sends one webhook delivery, to public addresses only
    database_thread  queries of PostgreSQL, on threads beside the event loop
    recorder         records results as sets

Sending is mostly waiting, so it runs on an event loop. Everything durable is in PostgreSQL (`processor.outbox`).
The memory of a courier holds only the messages that are under way. Only the command line imports this package.
"""
