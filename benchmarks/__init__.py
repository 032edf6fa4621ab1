"""Side by side against other ways to train: `make bench`."""
