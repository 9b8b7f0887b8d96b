"""`python -m mock_server`; see `run`."""

from mock_server.run import main

main(prog_name="python -m mock_server")
