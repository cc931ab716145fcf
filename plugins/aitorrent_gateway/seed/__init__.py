"""The dialect of games: `/txt`, `/img`, users and sessions."""
