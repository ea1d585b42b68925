"""The folder of good and bad files that several tests of errors share."""

from tests.e2e.error_shelf import place, shelf

__all__ = ["place", "shelf"]
