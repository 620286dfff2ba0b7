"""Where in a map is what a user pointed at: prototypes, their files, and what they match."""
