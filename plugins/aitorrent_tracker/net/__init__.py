"""The sockets of the tracker."""
