"""`python -m archsmith.compiler`: the command line."""

from .cli import main

main(prog_name="archsmith")
