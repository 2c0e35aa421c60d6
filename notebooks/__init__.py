"""What only a clone can use: the notebooks, what they draw with, and what executes them."""
