"""Messages, their form on the wire, and what carries them."""
