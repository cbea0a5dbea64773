"""python -m tenfold."""

from tenfold.cli import main

main()
