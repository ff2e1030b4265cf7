"""Several processes: who starts them, where they meet, and how one sees the others."""
