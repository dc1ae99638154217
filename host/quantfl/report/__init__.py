"""What people see of a run: the live table, the closing summary, the plot."""
