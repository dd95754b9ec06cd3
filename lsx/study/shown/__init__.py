"""What people see: the live display, results, pages, past studies, dry runs."""
