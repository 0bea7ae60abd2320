"""Pipeline from an encoder to one vector per image."""
