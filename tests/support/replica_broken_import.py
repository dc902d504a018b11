"""A module that imports something that is not there."""

import a_package_that_nobody_has  # type: ignore[import-not-found]  # that is the point

__all__ = ["a_package_that_nobody_has"]
