"""``python -m okrcell`` is the same as the command ``okrcell``."""

from okrcell.cli import main

main()
