"""`python -m sawyer` is `sawyer`."""

from sawyer.cli import main

main()
