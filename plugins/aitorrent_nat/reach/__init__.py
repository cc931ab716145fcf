"""Who can dial this node, found out with the help of its peers, and said in a word."""
