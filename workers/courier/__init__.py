"""
The courier: calls gateways, delivers webhooks, sends e-mail. All of it can be killed at any time.

    main.py      one process, from start to stop
    calls.py     gateways: claim, call, record, ring
    webhooks.py  deliveries: which, when, how many at once; poster.py sends one, to public addresses only
    codes.py     one-time codes, by e-mail or text message
    mails.py     e-mails; post.py sends them, or writes them into the outbox
    address_changes.py  e-mails to addresses that an account no longer has
    lines.py     PostgreSQL, on threads beside the event loop
    recorder.py  what came of it, written as sets

An event loop does the sending, since most of it is waiting. Everything durable is in PostgreSQL
(`processor.effects`, `processor.notifications`); what is in memory here is what is under way.
"""
