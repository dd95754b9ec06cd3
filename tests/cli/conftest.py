"""The data tests' digits, for commands that read them from files."""

from tests.data.conftest import digits, write_part

__all__ = ["digits", "write_part"]
