"""
What is measured, and against what: `python -m bench` (`make bench`, `make bench-quick`). Teller imports none of it.

    drain accept latency idle growth scale courier where     the parts of the report, one file each
    plan                  how much each of them does, in the full and in the quick run
    report charts         what comes out: Markdown, SVG, and the raw figures as JSON
    lab system            servers and databases of their own; a whole Teller
    work fill             the same work for everybody, with its checks; rows as Teller would have left them
    load processes least  load from outside; what processes cost; the least that a step could cost
    accept_server         Teller's API with two handlers more, which store nothing
    peers/                what a user would pick instead
"""
