"""The search of the paper: its objective, its steps, and what a run says of itself."""
