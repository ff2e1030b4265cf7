"""What NIH publishes of ChestX-ray14, and how it gets here."""
