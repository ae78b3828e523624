"""Images: encoded and decoded, framed, and read part by part from tars or arrays."""
