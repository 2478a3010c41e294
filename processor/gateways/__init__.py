"""
Gateways: the outside systems that pay out or fulfil a hold, and the safe use of outside addresses.

    protocol    the interface of a gateway; packages add gateways through an entry point
    http        the built-in gateway, which is a signed POST
    names       the names of all gateways, which resources refer to
    registry    makes the gateways
    sandbox     the gateway for trials, which the API serves
    signatures  signatures of calls and deliveries after Standard Webhooks
    addresses   the addresses that a webhook may have

Only the courier makes gateways. The API imports names, sandbox, signatures and addresses.
"""
