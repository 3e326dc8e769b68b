"""How the distilled images are made: one small module per method, and the parts that they share."""
