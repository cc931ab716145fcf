"""What is wrong with this machine or node, and the report that a user sends."""
