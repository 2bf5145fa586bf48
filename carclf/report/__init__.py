"""A classifier and its photos -> promises, a page, widgets. Must not know training."""

from carclf.deprecated import callable_package

callable_package(__name__, "describe")
