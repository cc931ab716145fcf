"""The tests: a package, so that no distribution that installs a package of this name hides them."""
