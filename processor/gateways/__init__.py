"""
The outside systems that pay out or fulfil what is held, and what is needed to talk to the outside safely.

    protocol.py    what a gateway is: given an order, it answers; own ones plug in through an entry point
    http.py        the built-in one: a signed POST
    names.py       which gateways there are, by the names that resources use
    registry.py    makes them
    signatures.py  Standard Webhooks: how calls and deliveries are signed
    addresses.py   which addresses a webhook may have

Only the courier makes gateways; the API takes names, signatures and addresses from here.
"""
