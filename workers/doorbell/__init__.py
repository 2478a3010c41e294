"""
Wake-ups over Redis: that a partition has work, that requests are decided, that couriers have something to send.

    clients        clients of a server, a cluster or Sentinels
    names          the names of one installation's keys and channels
    ring           `Doorbell` sends all of these after a commit
    announcements  receives the ids of decided requests, for clients that wait
    listener       receives the messages of one channel
    check          checks that Redis carries notifications
    condition      what keeps it from that, and the remedy
    old_names      removes the keys of earlier releases

`Names`, `Doorbell` and `Announcements` may be imported by `api`, `lab` and `teller`, and `Listener` by `worker` and
`courier`. The package imports only the domain, the errors and the log, and neither Dramatiq nor the database.
"""
