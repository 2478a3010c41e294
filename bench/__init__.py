"""
Measures Teller and its alternatives. `python -m bench`, `make bench` or `make bench-quick` runs it.

Teller imports nothing of this package.

    drain accept latency idle growth scale courier where     the parts of the report, one file each
    plan                  the sizes of each part, in the full and in the quick run
    report charts         the result: Markdown, SVG, and the raw figures as JSON
    lab system            servers and databases for the benchmarks; a whole Teller
    work fill             the work of the peers, with its checks; rows as Teller would have left them
    load processes least  load from outside; the cost of processes; the least cost of a step
    accept_server         Teller's API with two more handlers, which store nothing
    peers/                the alternatives that a user could choose
"""
