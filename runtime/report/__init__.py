"""The report page: what a joint graph looks like and costs, in one file that a browser opens."""
