"""The catalogue over HTTP: the REST API, on the port of the tracker."""
