"""
The worker: one process that owns partitions and decides their requests.

    main         one worker process, from start to stop
    assignments  the partitions that this process may drain now, in memory
    heartbeat    renews the lease, and claims and releases partitions
    broker       Dramatiq's broker, whose consumers sleep until they are notified
    drain        applies batches of a partition until its inbox is empty
    sweep        finds work without a doorbell

Only the command line imports this package.
"""
