"""A plugin for aitorrentd that says hello to people and to peers."""
