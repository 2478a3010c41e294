"""
The command for `python -m teller worker`: `teller up` starts its children with it, wherever the script `teller` is
installed. The words "teller worker" stand in their command lines.
"""

from teller.root import main

if __name__ == "__main__":
    main()
