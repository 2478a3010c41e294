"""
The command for `python -m teller worker`: so the children of `teller up` are started, wherever the
script `teller` was installed to, and "teller worker" still stands in their command line.
"""

from teller.root import main

if __name__ == "__main__":
    main()
