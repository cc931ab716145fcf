"""The catalogue of a tracker: signed publications in SQL, their REST API, and their web page."""
