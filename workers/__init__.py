"""
The processes behind the API.

    doorbell  wake-ups over Redis
    worker    decides requests
    courier   calls gateways, delivers webhooks, sends mails and codes

`api` and `lab` import `workers.doorbell` and nothing else from here. `worker` and `courier` do not import each other.
"""
